"""A puppet's memory seen from outside, by /proc/PID/{pagemap,status,smaps}."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from clonal.kernel import procfs
from clonal.scenario.observation import ProcessView, RegionView, Rss, Shown
from clonal.scenario.runner import PAGE, WINDOW, WINDOW_END, Region

# PAGEMAP_SCAN (Linux 6.7, include/uapi/linux/fs.h): _IOWR('f', 16, struct pm_scan_arg)
_SCAN = 3 << 30 | 96 << 16 | ord("f") << 8 | 16
_IS_ZERO = 1 << 5
_IS_HUGE = 1 << 6
_MOST = 4096  # ranges that one scan returns

_RSS = re.compile(rb"Rss(?:Anon|File|Shmem):\s+(\d+) kB")
_TABLES = re.compile(rb"VmPTE:\s+(\d+) kB")
_ACCOUNTED = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) .*?^VmFlags:([^\n]*)", re.DOTALL | re.MULTILINE)
_COMMITTED = re.compile(rb"Committed_AS:\s+(\d+) kB")


def committed_pages() -> int:
    """Committed_AS of the system; exact (mm/util.c vm_memory_committed sums all CPUs since 5.9)."""
    with open("/proc/meminfo", "rb", buffering=0) as file:
        found = _COMMITTED.search(file.readall())
    assert found
    return int(found[1]) * 1024 // PAGE


def _charged(smaps: bytes) -> int:
    """Pages of the mappings in the window that have VM_ACCOUNT (mm/vma.c __mmap_region, 6.18)."""
    total = 0
    for found in _ACCOUNTED.finditer(smaps):
        start = int(found[1], 16)
        if WINDOW <= start < WINDOW_END and b" ac" in found[3]:
            total += int(found[2], 16) - start
    return total // PAGE


class Lens:
    """Looks at one process. What it has outside the window of the regions, it has for itself: its
    resident pages are counted at birth, since it touches nothing more there; its page tables are the
    caller's to say, or, with None, all that it has now."""

    def __init__(self, pid: int, overhead: int | None) -> None:
        self._pid = pid
        self._pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.look_outside()
            self._overhead = self.page_tables() if overhead is None else overhead
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        os.close(self._pagemap)

    def frames_shown(self) -> bool:
        """Whether pagemap shows frame numbers, asked of a page that is surely there: its code."""
        code = next(vma for vma in procfs.maps(self._pid) if "x" in vma.perms and vma.inode)
        return any(entry & procfs.PM_PFN for entry in procfs.pagemap(code.start, code.end, self._pid))

    def page_tables(self) -> int:
        """VmPTE in bytes: the tables of all levels but the top one (fs/proc/task_mmu.c task_mem)."""
        found = _TABLES.search(procfs.read("status", self._pid))
        return int(found[1]) * 1024 if found else 0

    def view(self, regions: dict[str, Region], file_is_shmem: bool = False) -> ProcessView:
        """The process now."""
        status = procfs.read("status", self._pid)
        rss = Rss(*(int(kb) * 1024 // PAGE for kb in _RSS.findall(status)))
        tables = _TABLES.search(status)
        views = {name: self._region(region) for name, region in regions.items()}
        charged = _charged(procfs.read("smaps", self._pid))
        own = Rss(*(a - b for a, b in zip(rss, self._own, strict=True)))
        return ProcessView(views, own, (int(tables[1]) * 1024 if tables else 0) - self._overhead, charged)

    def look_outside(self) -> None:
        """Counts what is resident outside the window."""
        anon = file = 0
        for smap in procfs.smaps(self._pid):
            if not WINDOW <= smap.vma.start < WINDOW_END:
                anon += smap.sizes["Anonymous"] // PAGE
                file += (smap.sizes["Rss"] - smap.sizes["Anonymous"]) // PAGE if smap.vma.inode else 0
        self._own = Rss(anon, file, 0)

    def _region(self, region: Region) -> RegionView:
        data = os.pread(self._pagemap, region.pages * 8, region.address // PAGE * 8)
        entries = np.frombuffer(data, np.uint64)
        present = entries & procfs.PM_PRESENT != 0
        filed = entries & procfs.PM_FILE != 0
        frame = np.where(present, (entries & procfs.PM_PFN).astype(np.int64), -1)
        frame[frame == 0] = -1
        kind = np.where(present, np.where(filed, Shown.FILE, Shown.ANON), Shown.NONE).astype(np.uint8)
        huge = np.zeros(region.pages, bool)
        self._scan(region, kind, huge)
        if region.kind in ("thp", "anon", "noreserve"):
            kind[filed & present] = Shown.ZERO  # the huge zero page is no anonymous one
        return RegionView(kind, frame, entries & procfs.PM_EXCLUSIVE != 0, huge)

    def _scan(self, region: Region, kind: NDArray[np.uint8], huge: NDArray[np.bool_]) -> None:
        """Marks the zero page, which pagemap does not tell from a shared anonymous page, and pages
        mapped by an entry of the middle level."""
        for start, end, categories in self._ranges(region):
            at = slice((start - region.address) // PAGE, (end - region.address) // PAGE)
            if categories & _IS_ZERO:
                kind[at] = Shown.ZERO
            if categories & _IS_HUGE:
                huge[at] = True

    def _ranges(self, region: Region) -> Iterable[tuple[int, int, int]]:
        start = region.address
        found = np.empty((_MOST, 3), np.uint64)
        while start < region.end:
            any_of = _IS_ZERO | _IS_HUGE
            argument = np.array(
                [96, 0, start, region.end, 0, found.ctypes.data, _MOST, 0, 0, 0, any_of, any_of], np.uint64
            )
            count = fcntl.ioctl(self._pagemap, _SCAN, argument.data)
            yield from found[:count].tolist()
            start = int(argument[4])
