"""The benchmark as a picture (PNG), by matplotlib."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clonal.bench import words
from clonal.bench.machine import sentence
from clonal.errors import Error

if TYPE_CHECKING:
    from clonal.bench.results import Results

HIGHLIGHT = {
    "image": "#7fb069",
    "image-immortal": "#2a9134",
    "clone": "#137547",
    "standby": "#054a29",
}
PLAIN = {
    "eager": "#8d0801",
    "fork": "#d1495b",
    "fork-thp": "#edae49",
    "forkserver": "#30638e",
    "spawn": "#003d5b",
}
COLOURS = PLAIN | HIGHLIGHT
SECOND_AXIS = "private"


def require() -> None:
    """Raises before a long run rather than after it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise Error("--plot needs matplotlib: pip install 'clonal[cli]'")


def save(results: Results, path: Path) -> None:
    """Draws the time until a child's first instruction over the heap, and what a reading child costs."""
    require()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 5), width_ratios=(3, 2))
    draw_starts(left, results)
    draw_private(right, results)
    figure.suptitle("Cloning a warm Python process", fontsize=14)
    figure.text(0.01, 0.01, sentence(results.machine), fontsize=7, color="#555555")
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def draw_starts(axes: Any, results: Results) -> None:
    sizes = results.sizes()
    for name, colour in COLOURS.items():
        found = [
            (size, row.measures["first"])
            for size in sizes
            if (row := results.row(name, size))
        ]
        if found:
            heights = [measure.median / 1e6 for _, measure in found]
            below = [(measure.median - measure.q1) / 1e6 for _, measure in found]
            above = [(measure.q3 - measure.median) / 1e6 for _, measure in found]
            row = results.row(name, found[0][0])
            assert row is not None
            axes.errorbar(
                [size for size, _ in found],
                heights,
                yerr=(below, above),
                marker="o",
                capsize=3,
                color=colour,
                linewidth=2.5 if name in HIGHLIGHT else 1.2,
                label=row.title,
            )
    floor = results.row("floor-fork", 0)
    if floor is not None:
        axes.axhline(
            floor.measures["stall"].median / 1e6,
            color="#888888",
            linestyle=":",
            label=floor.title,
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="heap",
        ylabel="ms, median and quartiles (log)",
    )
    axes.set_xticks(sizes, [words.size(size) for size in sizes])
    axes.minorticks_off()
    axes.set_title("from the call to the child's first instruction", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def draw_private(axes: Any, results: Results) -> None:
    largest = max(results.sizes(), default=0)
    found = [
        (row.title, row.measures["private"].median / 2**20, COLOURS[row.strategy])
        for row in results.rows
        if row.size == largest and row.strategy in COLOURS and "private" in row.measures
    ]
    found.reverse()
    bars = axes.barh(
        [title for title, _, _ in found],
        [height for _, height, _ in found],
        color=[colour for _, _, colour in found],
    )
    axes.bar_label(
        bars,
        [words.size(height * 2**20) for _, height, _ in found],
        padding=3,
        fontsize=8,
    )
    axes.margins(x=0.2)
    axes.set_xlabel("MiB")
    axes.set_title(
        f"private memory after reading all of {words.size(largest)}", fontsize=10
    )
