"""The plan as a picture and as a page: what of it is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clonal.plan import show
from clonal.plan.planner import OURS, PLAIN, Plan
from clonal.plan.sweep import Axis, Point
from clonal.report import html
from clonal.report.plot import require

TITLE = "What a fleet of clones will cost"


def page(plan: Plan) -> str:
    """A self-contained page."""
    return html.page(TITLE, "; ".join(show.question(plan)), _parts(plan), plan.to_json())


def _parts(plan: Plan) -> Iterator[str]:
    for table in show.tables(plan):
        yield html.table(table.title, table.columns, table.rows)
    columns = ("change", "prediction", "how")
    yield html.table("What to change, and what that is predicted to do", columns, show.changes(plan))
    for note in show.notes(plan):
        yield html.paragraph(note)


def sweep_page(axes: Sequence[Axis], points: Sequence[Point]) -> str:
    """A self-contained page of a sweep."""
    table = show.sweep_table(axes, points)
    parts = [html.table(table.title, table.columns, table.rows)]
    data = {"plans": [point.to_json(axes) for point in points]}
    return html.page(TITLE, "; ".join(show.question(points[0].plan)), parts, data)


def save(plan: Plan, path: Path) -> None:
    """A PNG: the fleet's memory over time, each strategy a line."""
    figure, axes = _axes()
    for name, outlook in plan.outlooks.items():
        memory = outlook.memory
        seconds, used = memory.seconds, [value / 2**30 for value in memory.middle]
        axes.plot(seconds, used, label=name, linewidth=2.5 if name == OURS else 1.2)
    axes.axhline(plan.host.capacity / 2**30, color="#888888", linestyle=":", label=plan.host.bound)
    axes.set(xlabel="seconds", ylabel="GiB", title=TITLE, xscale="symlog")
    _write(figure, axes, path)


def save_sweep(axes: Sequence[Axis], points: Sequence[Point], path: Path) -> None:
    """A PNG: a fork of os.fork and of an image, for each plan."""
    figure, drawn = _axes()
    for name in (PLAIN, OURS):
        times = [point.plan.outlooks[name].way.stall / 1e6 for point in points]
        drawn.plot([" ".join(point.values) for point in points], times, marker="o", label=name)
    drawn.set(
        xlabel=", ".join(axis.name for axis in axes), ylabel="ms of one fork", title=TITLE, yscale="log"
    )
    _write(figure, drawn, path)


def _axes() -> tuple[Any, Any]:
    require()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(10, 5))


def _write(figure: Any, axes: Any, path: Path) -> None:
    from matplotlib import pyplot

    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=130, metadata={"Software": None})
    pyplot.close(figure)
