"""What /proc tells of a process that is recorded from outside."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np

from clonal.kernel import procfs
from clonal.kernel.procfs import PAGE, Vma
from clonal.observe.pages import EXCLUSIVE, FILE, SWAPPED, ZERO, pages


def common(mine: list[Vma], theirs: list[Vma]) -> list[tuple[int, int]]:
    """Private mappings of files that both have: one that was made after the fork only one has."""
    if not theirs:
        theirs = mine
    places: dict[tuple[str, int, int], list[Vma]] = {}
    for vma in theirs:
        places.setdefault((vma.dev, vma.inode, vma.start - vma.offset), []).append(vma)
    return [
        (max(vma.start, other.start), min(vma.end, other.end))
        for vma in mine
        if vma.private and vma.inode
        for other in places.get((vma.dev, vma.inode, vma.start - vma.offset), [])
        if other.start < vma.end and vma.start < other.end
    ]


def command_line(pid: int) -> list[str]:
    """The program and its arguments, as it was executed; [] if it has ended."""
    try:
        words = procfs.read("cmdline", pid).split(b"\0")[:-1]
    except OSError:
        return []
    return [os.fsdecode(word) for word in words]


def anonymous_pages(pid: int) -> int:
    """In memory: after a fork they are shared, all of them (mm/memory.c copy_present_ptes)."""
    try:
        return procfs.status(pid).size("RssAnon") // PAGE
    except OSError:
        return 0


def shared_pages(pid: int) -> tuple[int, int]:
    """Anonymous pages that it shares, and those that are its own."""
    try:
        flags = pages(pid).flags
    except OSError:
        return 0, 0
    anonymous = flags[flags & (FILE | SWAPPED | ZERO) == 0]
    own = int(np.count_nonzero(anonymous & EXCLUSIVE))
    return len(anonymous) - own, own


def living(pids: Iterable[int]) -> list[int]:
    """Those that have not ended."""
    found = []
    for pid in pids:
        try:
            if procfs.stat(pid).state not in "ZX":
                found.append(pid)
        except OSError:
            continue
    return found
