"""Copies of running processes by their page maps, from outside: no privilege beyond that of reading them, and
no line, cause or type.

Each look is compared with the one before: a page that was shared and has another frame now was copied, or,
where the kernel shows no frames, one that has become its process's alone; and so was an anonymous page in a
private mapping of a file that was not there, or was the file's. What a process copies after the last look
before its end is missed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from clonal.kernel import procfs
from clonal.kernel.procfs import PAGE, Vma
from clonal.observe.analyse import OUTCOMES
from clonal.observe.family import Member, Unreadable, family
from clonal.observe.memory import MemoryDenied, read_pieces
from clonal.observe.pages import EXCLUSIVE, FILE, SWAPPED, ZERO, Pages, pages
from clonal.observe.pools import HEADER, POOL, are_headers
from clonal.observe.record.events import FAULT
from clonal.observe.record.file import WORDS, Kind, Writer

COPIED, PERHAPS, FROM_FILE = (
    OUTCOMES.index(name) for name in ("copied", "copied or reused", "copied from a file")
)
SHARE = 0.05  # of the time that may be spent on looking
SOONEST, LATEST = 0.1, 2.0  # seconds between two looks
Numbers = npt.NDArray[np.int64]


@dataclass
class Look:
    """The pages of a process at one time, and its private mappings of files."""

    pages: Pages
    files: Numbers  # rows of first page, last page
    maps: str


@dataclass
class Watched:
    """A process. `before`: at the last look, or its parent's at the last look before it was forked."""

    member: Member
    generation: int
    before: Look
    dropped: int = 0
    maps: str | None = field(default=None)  # as they were written


def look(pid: int) -> Look:
    """Raises OSError where it has ended."""
    content = procfs.read("maps", pid)
    vmas = [vma for vma in procfs.parse_maps(content) if vma.private and not vma.path.startswith("[v")]
    found = pages(pid, [(vma.start, vma.end) for vma in vmas])
    return Look(found, _files(vmas), content.decode("utf-8", "replace"))


def _files(vmas: Iterable[Vma]) -> Numbers:
    spans = [(vma.start // PAGE, vma.end // PAGE) for vma in vmas if vma.inode]
    return np.array(spans, np.int64).reshape(-1, 2)


def copies(before: Look, now: Look) -> tuple[Numbers, npt.NDArray[np.uint8]]:
    """Numbers of the pages that were copied between two looks, and how."""
    old, new = before.pages, now.pages
    number = new.number[new.flags & (FILE | SWAPPED | ZERO) == 0]
    frame, flags = (each[new.flags & (FILE | SWAPPED | ZERO) == 0] for each in (new.frame, new.flags))
    outcome = np.full(len(number), -1, np.int64)
    at = np.minimum(np.searchsorted(old.number, number), max(len(old) - 1, 0))
    there = old.number[at] == number if len(old) else np.zeros(len(number), bool)
    was = old.flags[at] if len(old) else np.zeros(len(number), np.uint8)
    anonymous = there & (was & (FILE | SWAPPED | ZERO) == 0)
    shared = anonymous & (was & EXCLUSIVE == 0)
    shown = (frame > 0) & (old.frame[at] > 0 if len(old) else False)
    outcome[shared & shown & (frame != (old.frame[at] if len(old) else 0))] = COPIED
    outcome[shared & ~shown & (flags & EXCLUSIVE != 0)] = PERHAPS
    filed = _inside(before.files, number) & ~anonymous & (was & SWAPPED == 0)
    outcome[filed] = FROM_FILE
    found = outcome >= 0
    return number[found], outcome[found].astype(np.uint8)


def _inside(spans: Numbers, number: Numbers) -> npt.NDArray[np.bool_]:
    if not len(spans):
        return np.zeros(len(number), bool)
    index = np.searchsorted(spans[:, 0], number, "right") - 1
    found: npt.NDArray[np.bool_] = (index >= 0) & (number < spans[np.maximum(index, 0), 1])
    return found


class Watch:
    """A family that is looked at now and then."""

    def __init__(self, writer: Writer, pids: Sequence[int], without: Sequence[int]) -> None:
        self._writer, self._pids, self._without = writer, pids, without
        self.watched: dict[int, Watched] = {}
        self.took = 0.0

    def look(self) -> bool:
        """At all members, those that are new among them. Whether any is left."""
        begun = time.monotonic()
        members = self._members()
        before = {pid: each.before for pid, each in self.watched.items()}
        for member in members:
            try:
                self._look_at(member, before)
            except OSError:  # it has ended
                continue
        for pid in self.watched.keys() - {member.pid for member in members}:
            self._ended(self.watched.pop(pid))
        self.took = time.monotonic() - begun
        return bool(self.watched)

    def _members(self) -> list[Member]:
        """Those that are there; of the first ones, those that have not ended."""
        found: dict[int, Member] = {}
        for pid in dict.fromkeys([*self._pids, *self.watched]):
            try:
                found |= {member.pid: member for member in family(pid, self._without)}
            except (Unreadable, OSError):
                continue
        return list(found.values())

    def _look_at(self, member: Member, before: dict[int, Look]) -> None:
        now = look(member.pid)
        if member.pid not in self.watched:
            parent = self.watched.get(member.ppid)
            made = Watched(member, parent.generation + 1 if parent else 0, before.get(member.ppid, now))
            self.watched[member.pid] = made
            self._introduce(made, now)
        each = self.watched[member.pid]
        self._write(each, *copies(each.before, now), now.maps)
        each.before = now

    def _introduce(self, made: Watched, now: Look) -> None:
        anonymous = now.pages.flags[now.pages.flags & (FILE | SWAPPED | ZERO) == 0]
        own = int(np.count_nonzero(anonymous & EXCLUSIVE))
        facts: dict[str, Any] = {"shared": len(anonymous) - own, "own": own, "time": time.monotonic_ns()}
        facts |= {"frames_shown": bool(now.pages.frame.any()), "parent": made.member.ppid, "python": ""}
        facts |= {
            "generation": made.generation,
            "argv": made.member.command.split()[:WORDS],
            "spawned": False,
        }
        self._writer.write(Kind.PROCESS, facts, pid=made.member.pid)

    def _write(self, each: Watched, number: Numbers, outcome: npt.NDArray[np.uint8], maps: str) -> None:
        if not len(number):
            return
        records = np.zeros(len(number), FAULT)
        records["time"], records["address"] = time.monotonic_ns(), number * PAGE
        records["outcome"], records["in_pool"] = outcome, in_pools(each.member.pid, number)
        facts: dict[str, Any] = {"stacks": [], "types": [], "lost": 0, "fresh": 0, "symbols": {}}
        facts["maps"] = None if maps == each.maps else maps
        each.maps = maps
        before = self._writer.dropped
        self._writer.write(Kind.FAULTS, facts, records.tobytes(), pid=each.member.pid)
        each.dropped += self._writer.dropped - before

    def _ended(self, each: Watched) -> None:
        facts = {"time": time.monotonic_ns(), "dropped": each.dropped}
        self._writer.write(Kind.END, facts, pid=each.member.pid)


def in_pools(pid: int, number: Numbers) -> npt.NDArray[np.bool_]:
    """Which pages are of pools of small objects; none where the memory may not be read."""
    slots, index = np.unique(number * PAGE // POOL * POOL, return_inverse=True)
    try:
        pieces, good = read_pieces(pid, slots, HEADER)
    except (MemoryDenied, OSError):
        return np.zeros(len(number), bool)
    found: npt.NDArray[np.bool_] = (good & are_headers(pieces))[index]
    return found


def waits(watch: Watch) -> Iterator[float]:
    """Seconds until the next look, each time."""
    while True:
        yield min(max(SOONEST, watch.took / SHARE), LATEST)


def watch(
    writer: Writer, pids: Sequence[int], without: Sequence[int], wait: Callable[[float], bool],
    begins: Callable[[int], None],
) -> None:  # fmt: skip
    """Looks until all have ended or `wait`, given seconds, says that it is time to stop; then once more."""
    watched, begun = Watch(writer, pids, without), False
    for seconds in waits(watched):
        if not watched.look():
            return
        if not begun:
            begins(len(watched.watched))
        begun = True
        if wait(seconds):
            watched.look()
            return
