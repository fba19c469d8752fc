"""The pages of a process that are in memory or swapped out, as arrays: /proc/PID/pagemap in large reads."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clonal.kernel import procfs
from clonal.kernel.procfs import PAGE

# Flags of a page, the first four as pagemap has them from bit 56 on.
EXCLUSIVE = 1  # mapped by one process alone, once
FILE = 2  # of the page cache or of shared memory
SWAPPED = 4
HUGE = 8  # part of a huge entry
ZERO = 16  # the zero page, small or huge: no memory
BATCH = 1 << 21  # entries read at a time: 16 MB
HPAGE = 512  # pages of a huge entry, where pages are 4 KiB

Numbers = npt.NDArray[np.int64]
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Pages:
    """Parallel arrays in order of address; `number` is address / page size. `frame` is 0 where the kernel
    does not show it (without CAP_SYS_ADMIN) and where the page is swapped out."""

    number: Numbers
    frame: Numbers
    flags: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.number)

    @staticmethod
    def none() -> Pages:
        return Pages(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint8))


class Cut(OSError):
    """The process has ended while its pages were read; `pages` are those before."""

    def __init__(self, pages: Pages) -> None:
        super().__init__("ended while it was read")
        self.pages = pages


def pages(pid: int, spans: Iterable[Span] | None = None, zero: Numbers | None = None) -> Pages:
    """The pages of the address ranges `spans`, by default of all mappings. `zero`: frames of zeroes. Raises
    Cut where the process ends meanwhile."""
    if spans is None:
        spans = [(vma.start, vma.end) for vma in procfs.maps(pid) if vma.path not in ("[vsyscall]", "[vvar]")]
    parts = []
    gone = False
    fd = _open(pid)
    try:
        for batch in _batches(spans):
            entries, gone = _read(fd, batch)
            parts.append(_decode(entries, batch))
            if gone:
                break
    finally:
        os.close(fd)
    found = _joined(parts)
    if zero is not None and len(zero):
        _mark_zeroes(found, zero)
    if gone:
        raise Cut(found)
    return found


def _mark_zeroes(found: Pages, zero: Numbers) -> None:
    """Frames of zeroes are neither a file's nor anybody's alone. (numpy's isin() takes ten times as long.)"""
    candidates = np.flatnonzero(found.flags == 0)
    frames = found.frame[candidates]
    nearest = zero[np.minimum(np.searchsorted(zero, frames), len(zero) - 1)]
    found.flags[candidates[nearest == frames]] |= ZERO


def _open(pid: int) -> int:
    try:
        return os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise procfs.translated(error, pid, "pagemap") from None


def _batches(spans: Iterable[Span]) -> Iterator[list[Span]]:
    """The spans in groups that fit the buffer, long ones cut; in pages."""
    batch: list[Span] = []
    room = BATCH
    for start, end in spans:
        at, last = start // PAGE, end // PAGE
        while at < last:
            upto = min(last, at + room)
            if batch and batch[-1][1] == at:  # the next mapping follows without a gap: one read for both
                batch[-1] = batch[-1][0], upto
            else:
                batch.append((at, upto))
            room -= upto - at
            at = upto
            if not room:
                yield batch
                batch, room = [], BATCH
    if batch:
        yield batch


def _read(fd: int, batch: Sequence[Span]) -> tuple[npt.NDArray[np.uint64], bool]:
    """The entries, and whether they end too soon: the process has no memory any more."""
    entries = np.empty(sum(last - first for first, last in batch), np.uint64)
    room = memoryview(entries).cast("B")
    at = 0
    for first, last in batch:
        size = (last - first) * 8
        done = 0
        while done < size:
            got = os.preadv(fd, [room[at + done : at + size]], first * 8 + done)
            if not got:
                return entries[: (at + done) // 8], True
            done += got
        at += size
    return entries, False


def _decode(entries: npt.NDArray[np.uint64], batch: Sequence[Span]) -> Pages:
    """The entries that stand for something, guard pages left out (they look like swapped ones)."""
    at = np.flatnonzero(entries >= np.uint64(procfs.PM_SWAP))
    kept = entries[at]
    if (guards := (kept & np.uint64(procfs.PM_GUARD)) != 0).any():
        at, kept = at[~guards], kept[~guards]
    sizes = np.array([last - first for first, last in batch])
    before = np.cumsum(sizes) - sizes
    firsts = np.array([first for first, _ in batch]) - before
    counts = np.diff(np.searchsorted(at, np.append(before, before[-1] + sizes[-1])))
    number = at + np.repeat(firsts, counts)
    present = kept >= np.uint64(procfs.PM_PRESENT)
    frame = (kept & np.uint64(procfs.PM_PFN)).astype(np.int64)
    high = (kept >> np.uint64(56)).astype(np.uint8)
    flags: npt.NDArray[np.uint8] = (high & np.uint8(EXCLUSIVE)) | ((high >> np.uint8(4)) & np.uint8(FILE))
    if not present.all():
        frame[~present] = 0
        flags[~present] |= SWAPPED
    return Pages(number, frame, flags)


def _joined(parts: Sequence[Pages]) -> Pages:
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return Pages.none()
    return Pages(
        np.concatenate([part.number for part in parts]),
        np.concatenate([part.frame for part in parts]),
        np.concatenate([part.flags for part in parts]),
    )


def frames_shown() -> bool:
    """Whether the kernel shows this process frames: it needs CAP_SYS_ADMIN in the first user namespace
    (fs/proc/task_mmu.c pagemap_open)."""
    with mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as page:
        page[0] = 1
        return bool(_own(page)[0] & procfs.PM_PFN)


def zero_frames() -> Numbers:
    """The frames of the zero page and, where the kernel has made one, of the huge zero page: an area that
    is only read is mapped to them."""
    size = HPAGE * PAGE
    with mmap.mmap(-1, 2 * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        try:
            area.madvise(mmap.MADV_HUGEPAGE)
        except OSError:  # a kernel without huge pages
            pass
        for at in range(0, 2 * size, PAGE):
            area[at]
        entries = np.array(_own(area), np.uint64)
        small = np.array(_own_small_zero(), np.int64)
    frames = (entries & np.uint64(procfs.PM_PFN)).astype(np.int64)
    ordered = np.sort(np.concatenate([frames, small]))
    ordered = ordered[ordered > 0]
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(ordered) else ordered


def _own_small_zero() -> list[int]:
    with mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as page:
        page[0]
        return [entry & procfs.PM_PFN for entry in _own(page)]


def _own(area: mmap.mmap) -> Sequence[int]:
    """The entries of an area of this process."""
    pointer = ctypes.c_char.from_buffer(area)
    start = ctypes.addressof(pointer)
    del pointer
    return procfs.pagemap(start, start + len(area))
