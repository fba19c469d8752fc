"""Lines over heap sizes and bars, as a PNG drawn by matplotlib."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clonal.errors import Error
from clonal.report.words import size


@dataclass(frozen=True)
class Point:
    """A median with its quartiles, at one heap size."""

    size: int
    median: float
    q1: float
    q3: float


@dataclass(frozen=True)
class Line:
    name: str
    points: Sequence[Point]
    colour: str
    strong: bool = False


@dataclass(frozen=True)
class Bar:
    name: str
    value: float
    colour: str


@dataclass(frozen=True)
class Plot:
    """Two charts side by side: `lines` in nanoseconds over heap size, `bars` in bytes."""

    title: str
    caption: str
    lines_title: str
    lines: Sequence[Line]
    floor: tuple[str, float] | None
    bars_title: str
    bars: Sequence[Bar]


def require() -> None:
    """Raises before a long run rather than after it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise Error("--plot needs matplotlib: pip install 'clonal[cli]'")


def save(plot: Plot, path: Path) -> None:
    require()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 5), width_ratios=(3, 2))
    draw_lines(left, plot)
    draw_bars(right, plot)
    figure.suptitle(plot.title, fontsize=14)
    figure.text(0.01, 0.01, plot.caption, fontsize=7, color="#555555")
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(path, dpi=130, metadata={"Software": None})
    pyplot.close(figure)


def draw_lines(axes: Any, plot: Plot) -> None:
    for line in plot.lines:
        axes.errorbar(
            [point.size for point in line.points],
            [point.median / 1e6 for point in line.points],
            yerr=(
                [(point.median - point.q1) / 1e6 for point in line.points],
                [(point.q3 - point.median) / 1e6 for point in line.points],
            ),
            marker="o",
            capsize=2,
            elinewidth=0.8,
            color=line.colour,
            linewidth=2.5 if line.strong else 1.2,
            label=line.name,
        )
    if plot.floor is not None:
        name, height = plot.floor
        axes.axhline(height / 1e6, color="#888888", linestyle=":", label=name)
    sizes = sorted({point.size for line in plot.lines for point in line.points})
    axes.set(xscale="log", yscale="log", xlabel="heap", ylabel="ms: median and quartiles, log scale")
    axes.set_xticks(sizes, [size(value) for value in sizes])
    axes.minorticks_off()
    axes.set_title(plot.lines_title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def draw_bars(axes: Any, plot: Plot) -> None:
    bars = list(reversed(plot.bars))
    drawn = axes.barh(
        [bar.name for bar in bars], [bar.value / 2**20 for bar in bars], color=[bar.colour for bar in bars]
    )
    axes.bar_label(drawn, [size(bar.value) for bar in bars], padding=3, fontsize=8)
    axes.margins(x=0.2)
    axes.set_xlabel("MiB")
    axes.set_title(plot.bars_title, fontsize=10)
