"""The pages of a recording, counted once: every view is made of these counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from clonal.observe.analyse import OUTCOMES, REUSED, UNKNOWN, Copy, Frame, Recording, Stack

PAGE = 4096  # recordings are of x86-64
DEPTH = 64  # frames of the longest stack that is recorded (_native/trap.h)
OUTER = Frame("(callers further out)", "", 0)
NOT_SURE = "copied or reused"
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
    copies: list[Copy] = field(default_factory=list)  # those of the rows
    not_sure: int = 0  # counted as copied; the kernel did not show whether the page was reused instead
    reused: int = 0  # written to by the last process that had them: no copy
    by_recording: int = 0  # copied by the recording itself

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
    made = Tally(recording)
    chosen = (c for c in recording.copies if (pids is None or c.pid in pids) and cause in (None, c.cause))
    made.copies = [copy for copy in chosen if _counts(made, copy)]
    stacks = {id(copy.stack): copy.stack for copy in made.copies}
    counts = Counter(  # by the number of a stack: its hash takes long
        (c.pid, id(c.stack), c.cause, c.type, c.category, c.library, c.symbol) for c in made.copies
    )
    for (pid, stack, *rest), pages in counts.items():
        made.rows[Row(pid, stacks[stack], *rest)] += pages
    return made


def _counts(made: Tally, copy: Copy) -> bool:
    """Whether the program copied it; if not, it is noted."""
    if copy.own:
        made.by_recording += copy.outcome != OUTCOMES[REUSED]
    elif copy.outcome == OUTCOMES[REUSED]:
        made.reused += 1
    else:
        made.not_sure += copy.outcome == NOT_SURE
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
    times = [copy.time for copy in made.copies]
    starts = [process.began for process in processes] + times
    ends = [process.ended for process in processes if process.ended is not None] + starts
    start, end = min(starts, default=0), max(ends, default=0)
    found = Timeline(start, end, [0] * spans, {pid: [0] * spans for pid in made.recording.processes})
    for copy in made.copies:
        at = min((copy.time - start) * spans // max(end - start, 1), spans - 1)
        found.pages[at] += 1
        found.by_process[copy.pid][at] += 1
    return found


def generations(made: Tally) -> list[tuple[int, int, int]]:
    """Generation, its processes, the pages they copied."""
    processes = made.recording.processes
    counts = Counter(process.generation for process in processes.values())
    pages: Counter[int] = Counter()
    for row, copied in made.rows.items():
        pages[processes[row.pid].generation] += copied
    return [(generation, counts[generation], pages[generation]) for generation in sorted(counts)]
