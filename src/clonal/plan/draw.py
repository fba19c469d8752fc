"""The plan as a picture: what of it is drawn as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clonal.plan import curves, show, sweep_curves
from clonal.plan.page import TITLE
from clonal.plan.planner import Plan
from clonal.plan.sweep import Axis, Point
from clonal.report import picture


def save(plan: Plan, path: Path) -> None:
    """The fleet's memory over time, and how long one fork takes."""
    picture.save(TITLE, _caption(plan), [curves.memory(plan), curves.stalls(plan)], path)


def save_sweep(axes: Sequence[Axis], points: Sequence[Point], path: Path) -> None:
    """Every figure that the sweep changes."""
    picture.save(TITLE, _caption(points[0].plan), sweep_curves.charts(axes, points), path, columns=3)


def _caption(plan: Plan) -> str:
    return "\n".join(show.question(plan))
