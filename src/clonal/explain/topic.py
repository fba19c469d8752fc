"""A topic: a scenario, and what is told about each of its steps."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from clonal.errors import Error


class UnknownTopic(Error):
    """There is no topic of this name."""

    def __init__(self, name: str, names: Iterable[str]) -> None:
        names = tuple(names)
        near = difflib.get_close_matches(name.lower(), names, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
        super().__init__(f"no topic {name!r}; {hint}", name=name)


@dataclass(frozen=True)
class Tell:
    """Lines of a scenario that are one step of the story; those with `#` tell what is no step of a scenario.

    `where`: the kernel functions that do it. `settings`: what changes in the model's machine before it.
    `probe`: what else to look at on the running kernel, a key of probes.PROBES. `apart`: why the running
    kernel does not take this step and those after it. `press`: its one line is a write that does not fit into
    the memory cgroup. `nodes`: where processes run
    from this step on, and `policies` the memory policies that they set, for all nodes.
    """

    lines: str
    where: str
    why: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    probe: str = ""
    apart: str = ""
    press: bool = False
    nodes: Mapping[str, int] = field(default_factory=dict)
    policies: Mapping[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many steps of a scenario it has."""
        return sum(not line.startswith("#") for line in self.lines.splitlines())


@dataclass(frozen=True)
class Topic:
    """`config` are the settings of the model's machine, `lesson` what to remember. `lacking`: why the running
    kernel cannot play it, "" if it can."""

    name: str
    title: str
    steps: tuple[Tell, ...]
    lesson: str
    config: Mapping[str, Any] = field(default_factory=dict)
    group: int = 0  # pages of the memory cgroup that its processes are in; 0: none. Shows their points, too

    lacking: Callable[[], str] = str

    @property
    def text(self) -> str:
        """The whole scenario."""
        return "".join(f"{step.lines}\n" for step in self.steps)
