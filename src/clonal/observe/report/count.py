"""The pages of a recording, counted once: every view is made of these counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from clonal.observe.analyse import OUTCOMES, UNKNOWN, Frame, Recording, Stack, What

PAGE = 4096  # recordings are of x86-64
NOT_SURE = "copied or reused"
UNTOLD = "unknown"  # a cause that could not be told
assert NOT_SURE in OUTCOMES


class Row(NamedTuple):
    """What some copied pages have in common."""

    pid: int
    stack: Stack
    cause: str
    type: str
    category: str
    library: str
    symbol: str

    @property
    def frame(self) -> Frame:
        """The line of Python that copied; if there is none, the C function."""
        return next((frame for frame in self.stack if frame != UNKNOWN), self.native)

    @property
    def written(self) -> str:
        """The type of the object written to, or that there is none, or that it is not known."""
        return self.type or ("(unknown)" if self.cause == UNTOLD else "(no object)")

    @property
    def native(self) -> Frame:
        """The C function, as a line of its library."""
        return Frame(self.symbol or "?", self.library or "?", 0)


class Location(NamedTuple):
    """A row of the JSON."""

    function: str
    file: str
    line: int
    pages: int
    cause: str
    type: str
    category: str
    pid: int


@dataclass
class Tally:
    """Pages by row, and what is not counted among them."""

    recording: Recording
    rows: Counter[Row] = field(default_factory=Counter)
    kinds: dict[int, What] = field(default_factory=dict)  # those of the recording that are in the rows
    not_sure: int = 0  # counted as copied; the kernel did not show whether the page was reused instead
    reused: int = 0  # written to by the last process that had them: no copy
    by_recording: int = 0  # copied by the recording itself
    only: str = ""  # what was chosen of the recording, "" if it is all

    def copies(self) -> Iterator[tuple[int, int, What]]:
        """Those of the rows: when, and the number and kind of each."""
        made, kinds = self.recording.copies, self.kinds
        every = len(kinds) == len(made.kinds)
        for time, number in zip(made.times, made.what, strict=True):
            if every or number in kinds:
                yield time, number, kinds[number]

    @property
    def copied(self) -> int:
        """Pages copied by the program."""
        return self.rows.total()

    def by(self, key: Callable[[Row], str]) -> list[tuple[str, int]]:
        """Names with their pages, most first."""
        found: Counter[str] = Counter()
        for row, pages in self.rows.items():
            found[key(row)] += pages
        return ranked(found)

    def locations(self) -> list[Location]:
        """By line, cause, type, category and process; most first."""
        found: Counter[tuple[Frame, str, str, str, int]] = Counter()
        for row, pages in self.rows.items():
            found[row.frame, row.cause, row.type, row.category, row.pid] += pages
        made = [
            Location(*frame, pages, cause, kind, category, pid)
            for (frame, cause, kind, category, pid), pages in found.items()
        ]
        return sorted(made, key=lambda each: (-each.pages, each))

    def files(self) -> set[str]:
        """Of all lines, callers too."""
        stacks = {row.stack for row in self.rows}
        return {frame.file for stack in stacks for frame in stack} | {row.frame.file for row in self.rows}


def ranked(found: Counter[str]) -> list[tuple[str, int]]:
    """Most first, those with as many by name."""
    return sorted(found.items(), key=lambda item: (-item[1], item[0]))


def tally(recording: Recording, pids: set[int] | None = None, cause: str | None = None) -> Tally:
    """Counts; of some processes only, or of one cause."""
    made = Tally(recording, only=_only(pids, cause))
    for number, kind, pages in recording.copies.counts():
        asked_for = (pids is None or kind.pid in pids) and cause in (None, kind.cause)
        if asked_for and _counts(made, kind, pages):
            made.kinds[number] = kind
            made.rows[row_of(kind)] += pages
    return made


def _only(pids: set[int] | None, cause: str | None) -> str:
    chosen = [f"process {pid}" for pid in sorted(pids or ())] + ([f"cause {cause}"] if cause else [])
    return f" ({', '.join(chosen)} only)" if chosen else ""


def row_of(kind: What) -> Row:
    return Row(kind.pid, kind.stack, kind.cause, kind.type, kind.category, kind.library, kind.symbol)


def _counts(made: Tally, kind: What, pages: int) -> bool:
    """Whether the program copied them; if not, it is noted."""
    if kind.own:
        made.by_recording += pages * kind.copied
    elif not kind.copied:
        made.reused += pages
    else:
        made.not_sure += pages * (kind.outcome == NOT_SURE)
        return True
    return False


@dataclass
class Timeline:
    """Pages copied in equal spans of time, from the first fork on."""

    start: int  # CLOCK_MONOTONIC, ns
    end: int
    pages: list[int]
    by_process: dict[int, list[int]]

    @property
    def span(self) -> float:
        """Nanoseconds that one count covers."""
        return (self.end - self.start) / len(self.pages)


def timeline(made: Tally, spans: int) -> Timeline:
    """When they were copied."""
    processes = made.recording.processes.values()
    times = [time for time, _, _ in made.copies()]
    starts = [process.began for process in processes] + [min(times, default=0)] * bool(times)
    ends = [process.ended for process in processes if process.ended is not None] + [max(times, default=0)]
    start, end = min(starts, default=0), max(ends + starts, default=0)
    found = Timeline(start, end, [0] * spans, {pid: [0] * spans for pid in made.recording.processes})
    length, last = max(end - start, 1), spans - 1
    cells = Counter(
        (min((time - start) * spans // length, last), kind.pid) for time, _, kind in made.copies()
    )
    for (at, pid), pages in cells.items():
        found.pages[at] += pages
        found.by_process[pid][at] += pages
    return found


def generations(made: Tally) -> list[tuple[int, int, int]]:
    """Generation, its processes, the pages they copied."""
    processes = made.recording.processes
    counts = Counter(process.generation for process in processes.values())
    pages: Counter[int] = Counter()
    for row, copied in made.rows.items():
        pages[processes[row.pid].generation] += copied
    return [(generation, counts[generation], pages[generation]) for generation in sorted(counts)]
