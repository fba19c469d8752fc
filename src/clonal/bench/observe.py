"""What a child holds alone, seen from another process so that looking changes nothing."""

from __future__ import annotations

import array
import os
from collections.abc import Iterator

from clonal.bench.heap import PAGE

PRESENT, SHARED_OR_FILE, EXCLUSIVE = 1 << 63, 1 << 61, 1 << 56
CHUNK = 1 << 16


def mappings(pid: int) -> list[tuple[int, int]]:
    """First and last page number of each mapping of the process, without the kernel's own."""
    found = []
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as file:
        for line in file:
            start, _, end = line.split(" ", 1)[0].partition("-")
            if int(start, 16) < 1 << 63:
                found.append((int(start, 16) // PAGE, int(end, 16) // PAGE))
    return found


def _entries(pagemap: int, first: int, last: int) -> Iterator[int]:
    while first < last:
        entries = array.array("Q")
        data = os.pread(pagemap, min(CHUNK, last - first) * 8, first * 8)
        if not data:
            return
        entries.frombytes(data)
        yield from entries
        first += len(entries)


def private_bytes(pid: int) -> int:
    """Memory that only this process maps and that is not file or image: what the process costs.

    smaps cannot say it: it counts a page of an image as private while one process maps it.
    """
    mask, wanted = PRESENT | SHARED_OR_FILE | EXCLUSIVE, PRESENT | EXCLUSIVE
    pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        pages = sum(
            entry & mask == wanted
            for first, last in mappings(pid)
            for entry in _entries(pagemap, first, last)
        )
    finally:
        os.close(pagemap)
    return pages * PAGE


def page_tables(pid: int) -> int:
    """Bytes of page tables of the process, a cost that no count of pages shows."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("VmPTE:"):
                return int(line.split()[1]) << 10
    return 0


def meminfo() -> dict[str, int]:
    with open("/proc/meminfo", encoding="ascii") as file:
        return {line.split(":")[0]: int(line.split()[1]) << 10 for line in file}
