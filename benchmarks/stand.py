"""The test stand: subjects of `clonal bench` started and asked in turn, for the rows of figures.py."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from clonal.bench.driver import Scratch, Subject
from clonal.bench.floor import Floor, Unavailable, compile_floor
from clonal.bench.run import Progress
from clonal.bench.statistics import Measure
from clonal.kernel.memory import meminfo

MB = 1_000_000
MEMORY = 12 << 30
Samples = dict[str, list[float]]


class Stand:
    """Starts subjects and keeps the memory that they may take together."""

    def __init__(self, rounds: int, progress: Progress) -> None:
        self.rounds, self.progress = rounds, progress
        self.scratch = Scratch()
        self.program = compile_floor(self.scratch.path)

    def close(self) -> None:
        self.scratch.close()

    @contextmanager
    def floor(self) -> Iterator[Floor]:
        floor = Floor(self.program)
        try:
            yield floor
        finally:
            floor.close()

    def spec(self, strategy: str, size: int, objects: float = 0.5, **more: Any) -> dict[str, Any]:
        return {
            "strategy": strategy,
            "size": size,
            "objects": objects,
            "floor": str(self.program),
        } | more

    @contextmanager
    def subjects(
        self, specs: Mapping[str, dict[str, Any]], python: str = sys.executable
    ) -> Iterator[dict[str, Subject]]:
        """Prepared subjects by the names of `specs`; Unavailable if they would not fit in memory."""
        need = sum(int(spec["size"] * 1.2) + 64 * MB for spec in specs.values())
        need += max(spec["size"] for spec in specs.values())  # one child may copy a whole heap
        if need > min(MEMORY, meminfo()["MemAvailable"]):
            raise Unavailable(f"needs {need // MB:,} MB of memory")
        with ExitStack() as stack:
            found = {}
            for name, spec in specs.items():
                self.progress(f"building {spec['size'] // MB:,} MB for {name}")
                found[name] = stack.enter_context(Subject(spec, self.scratch, python))
                found[name].prepare()
            yield found

    def interleave(self, asks: Mapping[str, Callable[[], list[Any]]], rounds: int | None = None) -> Samples:
        """Calls each of `asks` in turn, round by round; what each returned, all rounds together."""
        samples: Samples = {name: [] for name in asks}
        count = rounds or self.rounds
        for number in range(count):
            for name, ask in asks.items():
                self.progress(f"round {number + 1}/{count}: {name}")
                samples[name] += ask()
        return samples


def asking(subject: Subject, do: str, **arguments: Any) -> Callable[[], list[Any]]:
    """A call that asks the subject; its answer as a list."""

    def ask() -> list[Any]:
        answer = subject.ask(do, **arguments)
        return answer if isinstance(answer, list) else [answer]

    return ask


def totals(subject: Subject, work: str) -> Callable[[], list[Any]]:
    """A call that returns the time of one child that does `work`, from the call until it was reaped."""
    return lambda: [spans["total"] for spans in subject.ask("measure", work=work)]


def calls(floor: Floor, what: str, count: int) -> Callable[[], list[Any]]:
    return lambda: [call for call, _reaped in floor.ask(what, count)]


def median(samples: list[float]) -> float:
    return statistics.median(samples)


def quantile(samples: list[float], share: float) -> float:
    """The lower end of a series is what a busy machine disturbs least."""
    return sorted(samples)[int(len(samples) * share)]


def summary(samples: Samples, scale: float = 1e3) -> dict[str, Any]:
    """Median and quartiles of each series; nanoseconds become microseconds."""
    found = {}
    for name, values in samples.items():
        measure = Measure.of(values)
        found[name] = {
            "p10": round(quantile(values, 0.1) / scale, 3),
            "median": round(measure.median / scale, 3),
            "q1": round(measure.q1 / scale, 3),
            "q3": round(measure.q3 / scale, 3),
            "samples": measure.count,
        }
    return found


def spread(samples: Samples) -> float:
    """The widest interquartile range of the series, as a share of its median."""
    return max(Measure.of(values).spread for values in samples.values())


def usable(python: Path | None, version: str) -> str:
    """The path of an interpreter of this version that has the package; Unavailable if it is none."""
    if python is None:
        raise Unavailable(f"no CPython {version} given (--python311 PATH, with the package installed)")
    check = "import sys, clonal._native; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([str(python), "-c", check], capture_output=True, text=True, check=False)
    except OSError as error:
        raise Unavailable(f"{python}: {error.strerror}") from error
    if done.stdout.strip() != version:
        raise Unavailable(f"{python} is not CPython {version} with the package installed")
    return str(python)
