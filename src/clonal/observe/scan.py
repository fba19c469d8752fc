"""Asking the kernel for pages of a certain kind instead of reading every entry: PAGEMAP_SCAN, from Linux 6.7
(Documentation/admin-guide/mm/pagemap.rst). Needs no privilege beyond that of reading pagemap."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from clonal.kernel import procfs
from clonal.kernel.probe import probe

# include/uapi/linux/fs.h
_PAGEMAP_SCAN = 3 << 30 | 96 << 16 | ord("f") << 8 | 16  # _IOWR('f', 16, struct pm_scan_arg)
PRESENT, SWAPPED, PFNZERO, HUGE = 1 << 3, 1 << 4, 1 << 5, 1 << 6
_ROOM = 4096  # regions in one answer
_START, _WALK_END = 2, 4  # fields of struct pm_scan_arg

Found = npt.NDArray[np.uint64]  # rows of start, end, categories


def available() -> bool:
    """Whether this kernel has it."""
    return probe().has("pagemap_scan")


def scan(pid: int, spans: Iterable[tuple[int, int]], wanted: int) -> Found:
    """The runs of pages that have one of the `wanted` categories, in these address ranges."""
    try:
        fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts = [_scan(fd, start, end, wanted) for start, end in spans]
        finally:
            os.close(fd)
    except OSError as error:
        raise procfs.translated(error, pid, "pagemap") from None
    return np.concatenate([np.empty((0, 3), np.uint64), *parts])


def _scan(fd: int, start: int, end: int, wanted: int) -> Found:
    """A walk that fills its room stops there and goes on. The kernel may return a run twice."""
    room = np.empty((_ROOM, 3), np.uint64)
    argument = np.zeros(12, np.uint64)
    argument[:] = (96, 0, start, end, 0, room.ctypes.data, _ROOM, 0, 0, 0, wanted, wanted)
    parts = []
    while argument[_START] < end:
        found = fcntl.ioctl(fd, _PAGEMAP_SCAN, memoryview(argument).cast("B"))
        parts.append(room[:found].copy())
        argument[_START] = argument[_WALK_END]
    runs = np.concatenate([np.empty((0, 3), np.uint64), *parts])
    return runs[np.concatenate([[True], runs[1:, 0] != runs[:-1, 0]])] if len(runs) else runs
