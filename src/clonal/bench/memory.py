"""The kernel's switches for a process's memory that the benchmark pins."""

from __future__ import annotations

import ctypes
import mmap
import os

from clonal.bench.heap import PAGE

PR_SET_THP_DISABLE = 41
MADV_HUGEPAGE, MADV_POPULATE_WRITE, MADV_COLLAPSE = 14, 23, 25
HUGE = 2 << 20

_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4


def disable_huge_pages() -> None:
    """No transparent huge pages in this process and its children, whatever the system's setting."""
    if _libc.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_THP_DISABLE)")


def advise(start: int, length: int, advice: int) -> int:
    """madvise; returns 0 or the errno."""
    return 0 if _libc.madvise(start, length, advice) == 0 else ctypes.get_errno()


def private_writable() -> list[tuple[int, int]]:
    """Start and end of this process's private writable mappings of anonymous memory."""
    found = []
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        for line in file:
            span, flags, _, _, inode, *name = line.split()
            if flags[1] == "w" and flags[3] == "p" and inode == "0" and name != ["[stack]"]:
                start, _, end = span.partition("-")
                found.append((int(start, 16), int(end, 16)))
    return found


def collapse_heap() -> int:
    """Turns this process's heap into huge pages; returns the bytes that are now huge."""
    refused = 0
    for start, end in private_writable():
        start, end = -(-start // HUGE) * HUGE, end // HUGE * HUGE
        if end > start:
            advise(start, end - start, MADV_HUGEPAGE)
            refused = advise(start, end - start, MADV_COLLAPSE) or refused
    huge = rollup("AnonHugePages")
    if not huge:
        raise OSError(refused, f"MADV_COLLAPSE made no huge page: {os.strerror(refused)}")
    return huge


def copy_everything(ranges: list[tuple[int, int]]) -> None:
    """Copies every private page of these ranges at once, as a fork without copy-on-write would."""
    for start, end in ranges:
        error = advise(start, end - start, MADV_POPULATE_WRITE)
        if error:
            raise OSError(error, "madvise(MADV_POPULATE_WRITE)")


def rollup(field: str) -> int:
    with open("/proc/self/smaps_rollup", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1]) << 10
    return 0


def mapping_count(pid: int) -> int:
    with open(f"/proc/{pid}/maps", "rb") as file:
        return sum(1 for _ in file)


def add_mappings(count: int) -> list[mmap.mmap]:
    """Adds mappings of four touched pages each that the kernel cannot merge with one another."""
    libc_mprotect = _libc.mprotect
    libc_mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    made = []
    for _ in range(count):
        area = mmap.mmap(-1, 5 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        area[: 4 * PAGE : PAGE] = b"vvvv"
        start = ctypes.addressof(ctypes.c_char.from_buffer(area))
        libc_mprotect(start + 4 * PAGE, PAGE, 0)
        made.append(area)
    return made
