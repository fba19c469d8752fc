"""The fault handler: what a read or a write of pages without a fitting entry does (mm/memory.c, 6.18).

All functions take pages as sorted indices into one mapping and handle them as if touched in that order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clonal.model import huge
from clonal.model.flags import ENTRIES, Config, Kind, Prot
from clonal.model.frames import NO_FRAME, ZERO_FRAME
from clonal.model.space import AddressSpace
from clonal.model.vma import Vma

Index = npt.NDArray[np.int64]


class Faults(NamedTuple):
    """Counts of what faults did; `mapped`: entries made for pages of files, those around included."""

    minor: int = 0
    major: int = 0
    copied: int = 0
    reused: int = 0
    zeroed: int = 0
    mapped: int = 0

    def __add__(self, other: object) -> Faults:
        if not isinstance(other, Faults):
            return NotImplemented
        return Faults(*(a + b for a, b in zip(self, other, strict=True)))


def touch(space: AddressSpace, vma: Vma, index: Index, write: bool, config: Config) -> Faults:
    """Reads or writes one byte of each page. Page tables are made for what faults."""
    if space.tables.huge or huge.wanted(vma, config):
        made = Faults(*huge.touch(space, vma, index, write, config))
        return made + _touch_small(space, vma, index, write, config)
    return _touch_small(space, vma, index, write, config)


def _touch_small(space: AddressSpace, vma: Vma, index: Index, write: bool, config: Config) -> Faults:
    lacking = ~vma.writable[index] if write else vma.frame[index] == NO_FRAME
    index = index[lacking]
    if not index.size:
        return Faults()
    space.reach(index + vma.start)
    if not write:
        return _read(space, vma, index, config.fault_around)
    absent = vma.frame[index] == NO_FRAME
    made = _write_absent(space, vma, index[absent])
    return made + _write_present(space, vma, index[~absent], config.kernel >= (6, 15))


def _read(space: AddressSpace, vma: Vma, index: Index, around: int) -> Faults:
    if vma.file is None and not vma.shared:  # do_anonymous_page: the zero page, which is nobody's memory
        vma.entries[index] = ZERO_FRAME
        return Faults(minor=index.size)
    return _read_file(space, vma, index, around)


def _read_file(space: AddressSpace, vma: Vma, index: Index, around: int) -> Faults:
    """do_read_fault: a fault maps the pages around it that are in the cache; one that is not costs a fault of
    its own, after having mapped those around it."""
    cache = _cached(vma)
    known = cache[index] != NO_FRAME
    faults, near = _windows(vma, index, around)
    first_known = known[faults]
    near = near[(cache[near] != NO_FRAME) & (vma.frame[near] == NO_FRAME)]
    missing = index[~known]
    major = _load(vma, missing)
    _map_cached(space, vma, np.union1d(near, missing))
    total = missing.size + int(first_known.sum())
    return Faults(minor=total - major, major=major, mapped=near.size + missing.size)


def _windows(vma: Vma, index: Index, around: int) -> tuple[Index, Index]:
    """(positions in `index` of the first page in each window, all pages of those windows) as do_fault_around
    has them: aligned to their size, but from the mapping's start on, and within one page table."""
    pages = index + vma.start
    opening = vma.start // around * around + around  # the first aligned window behind the mapping's start
    starts = np.maximum(pages // around * around, vma.start)
    if vma.start % around and starts.size and starts[0] == vma.start:  # a window that ends unaligned
        reach = min(vma.start + around, (vma.start // ENTRIES + 1) * ENTRIES)
        starts[(pages >= opening) & (pages < reach)] = vma.start
    begins, first = np.unique(starts, return_index=True)
    near = (begins[:, None] + np.arange(around)).ravel()
    table_end = np.repeat((begins // ENTRIES + 1) * ENTRIES, around)
    near = np.unique(near[(near < vma.end) & (near < table_end)])
    return first, near - vma.start


def _cached(vma: Vma) -> npt.NDArray[np.int32]:
    assert vma.file is not None
    return vma.file.frame[vma.offset : vma.offset + vma.pages]


def _load(vma: Vma, index: Index) -> int:
    """Brings pages into the cache; how many of them were major faults (read from a disk)."""
    assert vma.file is not None
    loaded = vma.file.load(index + vma.offset)
    return loaded if vma.file.kind is Kind.FILE else 0


def _map_cached(space: AddressSpace, vma: Vma, index: Index) -> None:
    frames = _cached(vma)[index]
    vma.entries[index] = frames
    # Shared memory has no use for notice of the first write (mm/vma.c vma_wants_writenotify); a file does.
    vma.writable[index] = (
        vma.shared and vma.file is not None and vma.file.kind is Kind.SHMEM and bool(vma.prot & Prot.WRITE)
    )
    space.frames.map(frames.astype(np.intp), space)


def _write_absent(space: AddressSpace, vma: Vma, index: Index) -> Faults:
    if not index.size:
        return Faults()
    if vma.shared:  # do_shared_fault: no pages around
        major = _load(vma, index)
        _map_cached(space, vma, index)
        vma.writable[index] = True
        return Faults(minor=index.size - major, major=major, mapped=index.size)
    if vma.file is not None:  # do_cow_fault: the file's page is read and copied at once
        major = _load(vma, index)
        _own(space, vma, index)
        return Faults(minor=index.size - major, major=major, copied=index.size)
    _own(space, vma, index)  # do_anonymous_page
    return Faults(minor=index.size, zeroed=index.size)


def _own(space: AddressSpace, vma: Vma, index: Index) -> None:
    """Gives each page a new anonymous frame of this process alone."""
    frames = space.frames.allocate(index.size, Kind.ANON, vma.policy, vma.offsets(index))
    space.frames.map(frames, space)
    space.frames.exclusive[frames] = True
    vma.entries[index] = frames
    vma.writable[index] = True
    space.prepare_anon_vma(vma)


def _write_present(space: AddressSpace, vma: Vma, index: Index, large: bool) -> Faults:
    """do_wp_page: an anonymous page that is exclusive or mapped once is reused, the zero page becomes a
    zeroed one, everything else is copied: by the writer, the others keep the old frame. An entry that is
    replaced is flushed (wp_page_copy: ptep_clear_flush), one that only allows more is not (wp_page_reuse).
    `large`: those of huge pages may be reused."""
    if not index.size:
        return Faults()
    if vma.shared:  # the first write to a page of a file: notice is taken (wp_page_shared)
        vma.writable[index] = True
        return Faults(minor=index.size)
    frames, old = space.frames, vma.frame[index].astype(np.intp)
    reuse = (frames.kind[old] == Kind.ANON) & frames.alone(old, large)
    vma.writable[index[reuse]] = True
    frames.exclusive[old[reuse]] = True
    zero = old == ZERO_FRAME
    copy = ~reuse
    _own(space, vma, index[copy])
    frames.unmap(old[copy], space)
    zeroed, reused = int(zero.sum()), int(reuse.sum())
    replaced = index.size - reused
    space.tlb.flush(replaced)
    return Faults(minor=index.size, copied=replaced - zeroed, reused=reused, zeroed=zeroed)
