"""Samples of a family: what each member has now, and what became of it since the sample before.

/proc/PID/stat of every member at each sample; smaps_rollup, for which the kernel walks the page tables, of as
many as the budget allows: those first that have faulted since, and those that were read longest ago.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from clonal.kernel import procfs
from clonal.kernel.procfs import PAGE
from clonal.observe.family import Member, denied, ended
from clonal.observe.top.strain import Strain, strain
from clonal.observe.top.watch import Seen, Watch

BUDGET = 0.015  # of one core, for smaps_rollup
LIVELIER = 8  # times as urgent is one that has faulted since it was read
SAMPLES = 240  # kept of each member, for sparklines


@dataclass(frozen=True, slots=True)
class Memory:
    """One reading of smaps_rollup, in bytes, with the minor faults until then."""

    at: float
    minor: int
    rss: int
    shared: int
    private: int
    pss: int
    anonymous: int
    written: int  # anonymous and this process's alone

    @staticmethod
    def read(pid: int, at: float, minor: int) -> Memory:
        sizes = procfs.smaps_rollup(pid)
        if not sizes:
            raise ProcessLookupError
        return Memory(
            at=at,
            minor=minor,
            rss=sizes["Rss"],
            shared=sizes["Shared_Clean"] + sizes["Shared_Dirty"],
            private=sizes["Private_Clean"] + sizes["Private_Dirty"],
            pss=sizes["Pss"],
            anonymous=sizes["Anonymous"],
            written=min(sizes["Anonymous"], sizes["Private_Dirty"]),
        )


def copied(before: Memory, after: Memory) -> int:
    """Pages that became the process's own while it did not grow: shared anonymous ones, and pages of files
    that it had mapped. A page that others have given up becomes its own too, but without a fault: there are
    no more copies than minor faults. (The first write to a page of a file that was never read looks like
    growth.)"""
    grown = after.anonymous - before.anonymous
    opened = after.written - before.written - grown
    files = (before.rss - before.anonymous) - (after.rss - after.anonymous)
    pages = (max(0, opened) + max(0, min(grown, files))) // PAGE
    return min(pages, after.minor - before.minor)


@dataclass(frozen=True)
class Row:
    """A member in one sample: sizes in bytes, rates per second (pages, for `copies`). None: not known, or not
    yet (a rate takes two samples). `age`: seconds since its memory was read. `problem`: why figures are
    missing."""

    member: Member
    root: int
    depth: int
    rss: int
    shared: int | None = None
    private: int | None = None
    growth: float | None = None
    minor: float | None = None
    major: float | None = None
    copies: float | None = None
    pss: int | None = None
    oom_score: int | None = None
    age: float | None = None
    problem: str = ""

    @property
    def pid(self) -> int:
        return self.member.pid

    def to_json(self) -> dict[str, Any]:
        figures = asdict(self)
        figures.pop("member")
        return asdict(self.member) | {
            key: round(value, 3) if isinstance(value, float) else value for key, value in figures.items()
        }


@dataclass(frozen=True)
class Sample:
    """All members at one time, parents first. `ended`: pids that were there in the sample before; `hidden`:
    processes that this user may not look into."""

    time: float
    rows: list[Row]
    strain: Strain
    ended: list[int]
    hidden: int
    seconds: float

    def total(self, name: str) -> float | None:
        """The sum of a figure; None where no member has it."""
        known = [value for row in self.rows if (value := getattr(row, name)) is not None]
        return sum(known) if known else None

    def to_json(self) -> dict[str, Any]:
        """A line of `clonal top --json`; see docs/top.md."""
        return {
            "time": round(self.time, 3),
            "seconds": round(self.seconds, 4),
            "strain": self.strain.to_json(),
            "ended": self.ended,
            "hidden": self.hidden,
            "members": [row.to_json() for row in self.rows],
        }


@dataclass
class Track:
    """What is kept of a member from sample to sample."""

    seen: Seen
    at: float
    memory: Memory | None = None
    faults: tuple[float, float] | None = None
    growth: float | None = None
    copies: float | None = None
    oom_score: int | None = None
    problem: str = ""
    private_then: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    faults_then: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES))

    def move(self, seen: Seen, at: float) -> None:
        """To a later look."""
        if at > self.at:
            before, now, passed = self.seen.stat, seen.stat, at - self.at
            self.faults = (now.minflt - before.minflt) / passed, (now.majflt - before.majflt) / passed
        self.seen, self.at = seen, at

    def read(self) -> None:
        """Its memory. One that ends meanwhile keeps what it had."""
        try:
            new = Memory.read(self.seen.member.pid, self.at, self.seen.stat.minflt)
            self.oom_score = int(procfs.read("oom_score", self.seen.member.pid))
        except PermissionError:
            if not ended(self.seen.member.pid):
                self.problem = denied(self.seen.member.pid)
            return
        except (ProcessLookupError, FileNotFoundError):
            return
        if self.memory is not None and (passed := new.at - self.memory.at) > 0:
            self.growth = (new.private - self.memory.private) / passed
            self.copies = copied(self.memory, new) / passed
        self.memory, self.problem = new, ""

    def row(self) -> Row:
        """Its row in a new sample, which is noted for the sparklines."""
        if self.memory is not None:
            self.private_then.append(self.memory.private)
        if self.faults is not None:
            self.faults_then.append(sum(self.faults))
        return self.row_now()

    def faulted(self) -> bool:
        """Whether it has, since its memory was read."""
        return self.memory is None or self.seen.stat.minflt != self.memory.minor

    def row_now(self) -> Row:
        """The figures as they are. Without a fault nothing has grown or was copied."""
        memory, faults = self.memory, self.faults or (None, None)
        growth, copies = self.growth, self.copies
        if memory is not None and self.at > memory.at and not self.faulted():
            growth = copies = 0.0
        return Row(
            member=self.seen.member,
            root=self.seen.root,
            depth=self.seen.depth,
            rss=self.seen.stat.rss if memory is None else memory.rss,
            shared=None if memory is None else memory.shared,
            private=None if memory is None else memory.private,
            growth=growth,
            minor=faults[0],
            major=faults[1],
            copies=copies,
            pss=None if memory is None else memory.pss,
            oom_score=self.oom_score,
            age=None if memory is None else self.at - memory.at,
            problem=self.problem,
        )


class Sampler:
    """Takes samples of what is watched. `budget`: the share of one core that reading memory may take."""

    def __init__(
        self, pid: int | None = None, budget: float = BUDGET, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.watch = Watch(pid)
        self._budget = budget
        self._clock = clock
        self._tracks: dict[tuple[int, int], Track] = {}
        self._last = 0.0

    def sample(self, chosen: int | None = None) -> Sample:
        """One sample now. The memory of `chosen` is always read, and `strain` is that of its group."""
        begun, at = time.perf_counter(), self._clock()
        before = self._tracks
        self._tracks = {}
        for seen in self.watch.look():
            key = seen.member.pid, seen.stat.starttime
            track = self._tracks[key] = before.get(key) or Track(seen, at)
            track.move(seen, at)
        allowed = self._budget * min(10.0, at - self._last) if before else float("inf")
        self._last = at
        read(sorted(self._tracks.values(), key=lambda each: -_urgency(each, at, chosen)), allowed)
        rows = [track.row() for track in self._tracks.values()]
        return Sample(
            time=time.time(),
            rows=rows,
            strain=strain(chosen or self.watch.pid or (rows[0].pid if rows else None)),
            ended=[pid for pid, born in before if (pid, born) not in self._tracks],
            hidden=self.watch.hidden,
            seconds=time.perf_counter() - begun,
        )

    def track(self, pid: int) -> Track | None:
        """What is kept of a member."""
        return next((track for (number, _), track in self._tracks.items() if number == pid), None)


def _urgency(track: Track, at: float, chosen: int | None) -> float:
    if track.seen.member.pid == chosen or track.memory is None:
        return float("inf")
    return (at - track.memory.at) * (LIVELIER if track.faulted() else 1)


def read(tracks: Iterable[Track], allowed: float) -> None:
    """The memory of these in turn until so many seconds of processor time are spent; of one at least."""
    begun = time.thread_time()
    for track in tracks:
        track.read()
        if time.thread_time() - begun >= allowed:
            break
