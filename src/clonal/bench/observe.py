"""What a child holds alone, seen from another process so that looking changes nothing."""

from __future__ import annotations

import array
import os
import select
from collections.abc import Iterator
from pathlib import Path

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


class Gate:
    """Two FIFOs at which a child waits to be looked at, whoever its parent is."""

    def __init__(self, folder: Path) -> None:
        self._ready = _fifo(folder / "ready")
        self._go = _fifo(folder / "go")

    def arrived(self, timeout: float) -> int | None:
        """The pid of the child that waits at the gate; None if none came in time."""
        if not select.select([self._ready], [], [], timeout)[0]:
            return None
        return int(os.read(self._ready, 32))

    def open(self) -> None:
        os.write(self._go, b"g")

    def close(self) -> None:
        os.close(self._ready)
        os.close(self._go)


def _fifo(path: Path) -> int:
    os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def wait_at_gate(folder: str) -> None:
    """In the child: says it has arrived and waits until it may go on."""
    ready = os.open(folder + "/ready", os.O_WRONLY)
    os.write(ready, b"%d" % os.getpid())
    os.close(ready)
    go = os.open(folder + "/go", os.O_RDONLY)
    os.read(go, 1)
    os.close(go)
