"""The written share above which plain os.fork is faster than an image, exit and faults included."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import TYPE_CHECKING

from clonal.bench.driver import Subject
from clonal.bench.results import BreakEven
from clonal.bench.statistics import crossing
from clonal.bench.strategies import STRATEGIES

if TYPE_CHECKING:
    from clonal.bench.run import Run

PLAIN = "fork"
COMPARED = ("image", "image-immortal")
SHARES = (0.0, 0.05, 0.1, 0.25, 0.5, 1.0)
ROUNDS = 5


def measure_break_even(run: Run, chosen: list[str]) -> None:
    compared = [name for name in COMPARED if name in chosen]
    if PLAIN not in chosen or not compared:
        return
    size = sorted(run.settings.sizes)[len(run.settings.sizes) // 2]
    with ExitStack() as stack:
        plain = run.start(stack, PLAIN, size)
        subjects = {name: run.start(stack, name, size) for name in compared}
        if plain is None:
            return
        alive = {PLAIN: plain} | {name: subject for name, subject in subjects.items() if subject}
        curves = _curves(run, alive)
    for name in alive:
        if name != PLAIN:
            points = list(zip(SHARES, curves[PLAIN], curves[name], strict=True))
            run.results.break_even.append(
                BreakEven(
                    name,
                    size,
                    list(SHARES),
                    curves[PLAIN],
                    curves[name],
                    crossing(points),
                )
            )


def _curves(run: Run, subjects: dict[str, Subject]) -> dict[str, list[float]]:
    """Median time of a child over the share that it writes, for each subject."""
    times: dict[str, list[list[float]]] = {name: [[] for _ in SHARES] for name in subjects}
    for number in range(min(ROUNDS, run.settings.rounds)):
        for index, share in enumerate(SHARES):
            for name, subject in subjects.items():
                run.progress(f"break-even, round {number + 1}: {STRATEGIES[name].title}, {share:.0%}")
                times[name][index] += [
                    spans["total"] for spans in subject.ask("measure", work=f"write:{share}")
                ]
    return {name: [statistics.median(values) for values in lists] for name, lists in times.items()}
