"""Times of parent and child on one shared page, all by CLOCK_MONOTONIC.

The page is a file mapped MAP_SHARED, so that children who were exec'd, or forked by another process
(forkserver, template), write to the same one.
"""

from __future__ import annotations

import enum
import mmap
import os
import time

now = time.monotonic_ns


class Slot(enum.IntEnum):
    """Who notes what; the C child (floor.c) knows FIRST and EXIT by number."""

    CALL = 0  # parent: about to ask for a child
    RETURN = 1  # parent: the call came back
    FIRST = 2  # child: its first instruction
    ANSWER = 3  # child: first useful result computed
    BEGIN = 4  # child: the work begins
    END = 5  # child: the work is done
    EXIT = 6  # child: about to end
    RESULT = 7  # parent: has the first useful result
    REAPED = 8  # parent: the child is gone


class Clock:
    """The shared page. `stamp` costs one call and writes to no private page."""

    def __init__(self, path: str) -> None:
        self.path = path
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, mmap.PAGESIZE)
            self._map = mmap.mmap(fd, mmap.PAGESIZE)
        finally:
            os.close(fd)
        self._slots = memoryview(self._map).cast("q")

    def stamp(self, slot: int) -> None:
        self._slots[slot] = now()

    def at(self, slot: int) -> int:
        return self._slots[slot]

    def clear(self) -> None:
        for slot in Slot:
            self._slots[slot] = 0

    def read(self) -> dict[Slot, int]:
        return {slot: self._slots[slot] for slot in Slot}


def spans(times: dict[Slot, int]) -> dict[str, int]:
    """The measures of one child, in nanoseconds; those whose ends were not both noted are left out."""
    ends = {
        "stall": (Slot.CALL, Slot.RETURN),
        "first": (Slot.CALL, Slot.FIRST),
        "result": (Slot.CALL, Slot.RESULT),
        "work": (Slot.BEGIN, Slot.END),
        "teardown": (Slot.EXIT, Slot.REAPED),
        "total": (Slot.CALL, Slot.REAPED),
    }
    return {
        name: times[end] - times[start]
        for name, (start, end) in ends.items()
        if times[start] and times[end] and times[end] >= times[start]
    }
