"""Charts and bars as one PNG, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clonal.report.axis import Axis
from clonal.report.chart import Bars, Chart, Line, split
from clonal.report.plot import require

PANEL = (6.4, 4.4)  # inches


def save(title: str, caption: str, charts: Sequence[Chart | Bars], path: Path, columns: int = 2) -> None:
    """All of them side by side, at most `columns`; lines that are hidden at first are left out."""
    require()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = max(1, min(columns, len(charts)))
    rows = -(-len(charts) // columns)
    below = 0.15 + 0.13 * len(caption.splitlines())  # inches
    size = PANEL[0] * columns, PANEL[1] * rows + below
    figure, grid = pyplot.subplots(rows, columns, figsize=size, squeeze=False)
    for axes, chart in zip(grid.flat, charts, strict=False):
        draw_bars(axes, chart) if isinstance(chart, Bars) else draw_lines(axes, chart)
    for axes in list(grid.flat)[len(charts) :]:
        axes.set_axis_off()
    figure.suptitle(title, fontsize=14)
    figure.text(0.01, 0.01, caption, fontsize=7, color="#555555")
    figure.tight_layout(rect=(0, below / size[1], 1, 1))
    figure.savefig(path, dpi=130, metadata={"Software": None})
    pyplot.close(figure)


def draw_lines(axes: Any, chart: Chart) -> None:
    for line in chart.lines:
        if line.on:
            _draw_line(axes, line)
    if chart.limit is not None and chart.limit[0] <= chart.y.high:
        axes.axhline(chart.limit[0], color="#20242a", linestyle=":", label=chart.limit[1])
    axes.set_xlim(chart.x.low, chart.x.high)
    axes.set_ylim(chart.y.low, chart.y.high)
    _ticks(axes.xaxis, axes.set_xscale, chart.x, 6)
    _ticks(axes.yaxis, axes.set_yscale, chart.y, 7)
    axes.set_xlabel(chart.x.name)
    axes.set_title(chart.title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, frameon=False)


def _draw_line(axes: Any, line: Line) -> None:
    before, after = split(line)
    style = {"color": line.colour.light, "linewidth": 2.5 if line.strong else 1.4}
    dashes = {"linestyle": "--" if line.dashed else "-", "marker": "o" if line.dots else None}
    axes.plot(*_columns(before), label=line.name, markersize=3.5, **style, **dashes)
    if after:
        axes.plot(*_columns(after), alpha=0.45, linestyle=":", **style)
    if line.band:
        xs, low, high = zip(*line.band, strict=True)
        axes.fill_between(xs, low, high, color=line.colour.light, alpha=0.16, linewidth=0)
    if line.mark is not None:
        axes.plot([line.mark.x], [line.mark.y], "x", color=line.colour.light, markersize=9, markeredgewidth=2)
        axes.annotate(
            line.mark.words, line.mark[:2], (-8, -16), textcoords="offset points", ha="right",
            fontsize=8, color=line.colour.light,
        )  # fmt: skip


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def draw_bars(axes: Any, chart: Bars) -> None:
    bars = list(reversed(chart.bars))
    drawn = axes.barh(
        [bar.name for bar in bars],
        [bar.value for bar in bars],
        color=[bar.colour.light for bar in bars],
        alpha=0.85,
        left=0.0,
    )
    axes.set_xlim(chart.axis.low, chart.axis.high)
    _ticks(axes.xaxis, axes.set_xscale, chart.axis, 5)
    axes.bar_label(drawn, [chart.axis.words(bar.value) for bar in bars], padding=3, fontsize=8)
    axes.set_xlabel(chart.axis.name)
    axes.set_title(chart.title, fontsize=10)


def _ticks(side: Any, scale: Any, axis: Axis, most: int) -> None:
    """The same ticks as on a page."""
    limits = axis.low, axis.high
    scale("log" if axis.log else "linear")
    ticks: Mapping[float, str] = axis.ticks(most)
    side.set_ticks(list(ticks), list(ticks.values()), fontsize=8)
    side.set_ticks([], minor=True)
    side.set_view_interval(*limits, ignore=True)
