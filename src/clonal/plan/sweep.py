"""The same question for several values of a parameter, or of several."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from clonal.plan.planner import Plan
from clonal.report.words import BadValue

MOST = 400  # plans
EXACT = ("copied_pages", "page_exact_clones", "page_exact_share")
SIMULATED = 8  # clones page by page, for each plan


class Axis(NamedTuple):
    """A parameter as the command line calls it, and its values as written there."""

    name: str
    values: tuple[str, ...]


class Point(NamedTuple):
    """The values of one plan, in the order of the axes."""

    values: tuple[str, ...]
    plan: Plan

    def to_json(self, axes: Sequence[Axis]) -> dict[str, Any]:
        """Its values by name, and the plan's strategies."""
        made = {axis.name: value for axis, value in zip(axes, self.values, strict=True)}
        found = self.plan.to_json()
        return made | {name: found[name] for name in (*EXACT, "strategies")}


def parse(texts: Sequence[str], allowed: Sequence[str]) -> list[Axis]:
    """Axes from texts such as `clones=10,100,1000`. Raises BadValue."""
    axes = [_axis(text, allowed) for text in texts]
    names = [axis.name for axis in axes]
    if len(set(names)) < len(names):
        raise BadValue(f"--sweep: {max(names, key=names.count)} is given twice")
    if (count := len(list(combinations(axes)))) > MOST:
        raise BadValue(f"--sweep: {count:,} plans are too many, at most {MOST}; give fewer values")
    return axes


def _axis(text: str, allowed: Sequence[str]) -> Axis:
    name, equals, values = text.partition("=")
    name = name.strip().lstrip("-")
    if name not in allowed:
        raise BadValue(f"--sweep: there is no {name!r} to vary; there are {', '.join(allowed)}")
    found = tuple(value.strip() for value in values.split(",") if value.strip())
    if not equals or not found:
        raise BadValue(f"--sweep: write the values of {name} as {name}=A,B,C")
    return Axis(name, found)


def combinations(axes: Sequence[Axis]) -> itertools.product[tuple[str, ...]]:
    """All values together, the last axis fastest."""
    return itertools.product(*(axis.values for axis in axes))
