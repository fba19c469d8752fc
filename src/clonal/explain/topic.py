"""A topic: a scenario, and what is told about each of its steps."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from clonal.errors import Error


class UnknownTopic(Error):
    """There is no topic of this name."""

    def __init__(self, name: str, names: Iterable[str]) -> None:
        names = tuple(names)
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
        super().__init__(f"no topic {name!r}; {hint}", name=name)


@dataclass(frozen=True)
class Tell:
    """Lines of a scenario that are one step of the story.

    `where`: the kernel functions that do it. `act`: something that only the model does after the lines, a
    key of acts.ACTS. `probe`: what else to look at on the running kernel, a key of probes.PROBES.
    `apart`: why the running kernel does not take this step and those after it. `nodes`: where processes run
    from this step on, and `policies` their memory policies.
    """

    lines: str
    where: str
    why: str
    act: str = ""
    probe: str = ""
    apart: str = ""
    nodes: Mapping[str, int] = field(default_factory=dict)
    policies: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Topic:
    """`config` are the settings of the model's machine, `lesson` what to remember."""

    name: str
    title: str
    steps: tuple[Tell, ...]
    lesson: str
    config: Mapping[str, Any] = field(default_factory=dict)
    numa: bool = False  # shows on which nodes frames lie
    points: bool = False  # shows what the OOM killer goes by

    @property
    def text(self) -> str:
        """The whole scenario."""
        return "".join(f"{step.lines}\n" for step in self.steps)
