"""A whole run: subjects started in batches that fit in memory, asked in turn, round by round."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clonal.bench.article import run_article
from clonal.bench.breakeven import measure_break_even
from clonal.bench.driver import Scratch, Subject, SubjectDied
from clonal.bench.floor import Floor, Unavailable, compile_floor
from clonal.bench.results import MEASURES, Results, Row, Skipped, instability
from clonal.bench.statistics import Measure
from clonal.bench.storms import measure_storms
from clonal.bench.strategies import ARTICLE, FLOOR, NAMES, STRATEGIES, Strategy
from clonal.errors import Error
from clonal.kernel.machine import busy, machine
from clonal.kernel.memory import meminfo

ANCHOR = "fork"  # in every batch, so that what it is compared with ran beside it
IDLE_CHILDREN = 5  # children that do nothing, per round: they are short
SLOW_ROUNDS = 3
Samples = dict[str, list[float]]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    sizes: tuple[int, ...] = (64 << 20, 512 << 20, 2 << 30)
    strategies: tuple[str, ...] = NAMES
    rounds: int = 5
    objects: float = 0.5
    burst: float = 0.2
    storm_children: int = 8
    storm_bytes: int = 64 << 20
    memory: int = 12 << 30
    extras: bool = True  # storms and break-even

    def quick(self) -> Settings:
        """A smoke run: seconds, not minutes; the figures are not to be quoted."""
        return replace(
            self,
            sizes=tuple(min(size, 16 << 20) for size in self.sizes[:1]),
            rounds=2,
            burst=0.05,
            storm_children=2,
            storm_bytes=8 << 20,
        )

    def check(self) -> None:
        """Raises Error in one line for settings that make no sense here."""
        unknown = sorted(set(self.strategies) - set(NAMES))
        if unknown:
            raise Error(f"no strategy {', '.join(unknown)}; there are {', '.join(NAMES)}")
        if self.rounds < 1:
            raise Error(f"--rounds must be at least 1, not {self.rounds}")
        for size in self.sizes:
            if size < 1 << 20:
                raise Error(f"--sizes: a heap of {size} bytes is too small, give at least 1M")
            if capacity(size, self.memory) < 2:
                raise Error(
                    f"--sizes: comparing heaps of {size >> 20} MiB needs {_cost(size) * 3 >> 20} MiB, "
                    f"{budget(self.memory) >> 20} MiB may be used; give smaller sizes"
                )


def budget(limit: int) -> int:
    """Bytes that all subjects and their children may take together."""
    return min(limit, int(meminfo()["MemAvailable"] * 0.6))


def _cost(size: int) -> int:
    """What a subject takes: its heap, its interpreter, and some slack for building it."""
    return int(size * 1.15) + (48 << 20)


def capacity(size: int, limit: int) -> int:
    """Subjects that may live at once; one child at a time may copy a whole heap."""
    return budget(limit) // _cost(size) - 1


def batches(names: list[str], room: int) -> Iterator[list[str]]:
    """Splits the strategies, with the anchor in each batch."""
    anchor = [ANCHOR] if ANCHOR in names else []
    others = [name for name in names if name != ANCHOR]
    step = max(1, room - len(anchor))
    for start in range(0, len(others) or 1, step):
        yield anchor + others[start : start + step]


def run(settings: Settings, progress: Progress = lambda _what: None) -> Results:
    settings.check()
    results = Results(machine=machine(), settings=vars(settings).copy())
    if warning := busy():
        results.warnings.append(warning)
    scratch = Scratch()
    try:
        Run(settings, results, scratch, progress).everything()
    finally:
        scratch.close()
    results.warnings += instability(results)
    return results


class Run:
    def __init__(self, settings: Settings, results: Results, scratch: Scratch, progress: Progress) -> None:
        self.settings, self.results, self.scratch, self.progress = (
            settings,
            results,
            scratch,
            progress,
        )
        self.random = random.Random(1)
        self.samples: dict[tuple[str, int], Samples] = defaultdict(lambda: defaultdict(list))
        self.facts: dict[tuple[str, int], dict[str, Any]] = {}
        self.floor = self._compile()

    def _compile(self) -> Path | None:
        try:
            return compile_floor(self.scratch.path)
        except Unavailable as reason:
            self._skip(FLOOR, 0, str(reason))
            return None

    def everything(self) -> None:
        chosen = [name for name in STRATEGIES if name in self.settings.strategies]
        if FLOOR in self.settings.strategies and self.floor is not None:
            self.progress("floor")
            self.measure_floor(self.floor)
        for size in self.settings.sizes if chosen else ():
            for names in batches(chosen, capacity(size, self.settings.memory)):
                self.measure_batch(size, names)
            self.add_rows(size)
        if self.settings.extras:
            measure_storms(self, chosen)
            measure_break_even(self, chosen)
        if ARTICLE in self.settings.strategies:
            self.progress("the article's script")
            self.results.article = run_article(self.scratch.new())

    def _skip(self, strategy: str, size: int, reason: str) -> None:
        self.results.skipped.append(Skipped(strategy, size, reason))

    def measure_floor(self, program: Path) -> None:
        floor = Floor(program)
        try:
            for what, title in (
                ("fork", "minimal C fork"),
                ("vfork", "minimal C vfork"),
            ):
                times = [pair for _ in range(self.settings.rounds) for pair in floor.ask(what, 31)]
                stall = Measure.of([call for call, _ in times])
                rate = Measure.of([1e9 / total for _, total in times])
                self.results.rows.append(
                    Row(
                        f"{FLOOR}-{what}",
                        title,
                        0,
                        "-",
                        "a C program of one page",
                        {"stall": stall, "rate": rate},
                    )
                )
        finally:
            floor.close()

    def start(self, stack: ExitStack, name: str, size: int, **more: Any) -> Subject | None:
        """A prepared subject; None, and a line among the skipped, where it cannot be had."""
        strategy = STRATEGIES[name]
        try:
            if not strategy.inherits and self.floor is None:
                raise Unavailable("no minimal C program to start")
            subject = stack.enter_context(Subject(self.spec(name, size) | more, self.scratch))
            self.progress(f"{strategy.title}: building {size >> 20} MiB")
            subject.prepare()
            return subject
        except (Unavailable, SubjectDied) as reason:
            self._skip(name, size, str(reason))
            return None

    def spec(self, name: str, size: int) -> dict[str, Any]:
        return {
            "strategy": name,
            "size": size,
            "objects": self.settings.objects,
            "floor": str(self.floor) if self.floor else None,
        }

    def measure_batch(self, size: int, names: list[str]) -> None:
        with ExitStack() as stack:
            found = {name: self.start(stack, name, size) for name in names}
            subjects = {name: subject for name, subject in found.items() if subject is not None}
            for number in range(self.settings.rounds):
                for name in self.random.sample(list(subjects), len(subjects)):
                    where = f"{size >> 20} MiB, round {number + 1}/{self.settings.rounds}"
                    self.progress(f"{where}: {STRATEGIES[name].title}")
                    try:
                        self.one_round(STRATEGIES[name], subjects[name], number)
                    except (Unavailable, SubjectDied) as reason:
                        self._skip(name, size, str(reason))
                        del subjects[name]
            for name, subject in subjects.items():
                self.facts.setdefault((name, size), subject.facts)

    def one_round(self, strategy: Strategy, subject: Subject, number: int) -> None:
        """One round with one subject: idle children, one child per kind of work, a burst."""
        if strategy.slow_start and number >= SLOW_ROUNDS:
            return
        samples = self.samples[strategy.name, subject.spec["size"]]
        for work in strategy.ops:
            count = IDLE_CHILDREN if work == "nothing" and not strategy.slow_start else 1
            for spans in subject.ask("measure", work=work, count=count):
                sort_in(samples, work, spans)
        if not strategy.slow_start:
            samples["rate"].append(subject.ask("burst", seconds=self.settings.burst))
        if number < SLOW_ROUNDS and "read_all" in strategy.ops and strategy.process:
            for name, value in subject.private("read_all").items():
                samples[name].append(value)

    def add_rows(self, size: int) -> None:
        """The rows of one size, in the order of the strategies; the anchor's batches are pooled."""
        for name, strategy in STRATEGIES.items():
            if (name, size) in self.facts:
                samples = self.samples[name, size]
                measures = {measure: Measure.of(samples[measure]) for measure in MEASURES if samples[measure]}
                facts = self.facts[name, size]
                self.results.rows.append(
                    Row(
                        name,
                        strategy.title,
                        size,
                        strategy.thp,
                        strategy.what,
                        measures,
                        facts,
                    )
                )


def sort_in(samples: Samples, work: str, spans: dict[str, int]) -> None:
    """Files the spans of a child under the measures they belong to."""
    names = {
        "nothing": {
            "stall": "stall",
            "first": "first",
            "result": "result",
            "teardown": "teardown_idle",
            "faults": "faults_idle",
        },
        "read_all": {
            "work": "read_all",
            "teardown": "teardown",
            "total": "read_total",
            "faults": "faults_read",
        },
        "write_5": {"work": "write_5"},
        "write_all": {"work": "write_all", "total": "write_total"},
    }[work]
    for span, measure in names.items():
        if span in spans:
            samples[measure].append(spans[span])
