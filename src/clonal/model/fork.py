"""What fork does to an address space (kernel/fork.c dup_mmap, mm/memory.c copy_page_range, 6.18)."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clonal.model.flags import HUGE, Kind, Prot
from clonal.model.frames import NO_FRAME, ZERO_FRAME
from clonal.model.huge import blocks_in, large_entries, split
from clonal.model.space import AddressSpace
from clonal.model.tables import Tables
from clonal.model.vma import Vma, new_anon_vma


class ForkWork(NamedTuple):
    """What a fork had to do: the counts that its time depends on."""

    vmas: int = 0
    copied_vmas: int = 0  # those with an anon_vma, whose entries are copied
    entries: int = 0
    tables: int = 0  # PTE tables made for the child
    huge: int = 0  # huge pages, each an entry of the middle level


def duplicate(parent: AddressSpace) -> tuple[AddressSpace, ForkWork]:
    """The child's address space. Only mappings in which something was written privately have their entries
    copied (vma_needs_copy); of the others the child faults again. The parent's TLBs are flushed once, at the
    end (flush_tlb_mm)."""
    child = AddressSpace(parent.frames, parent.config)
    child.brk = parent.brk
    tables = _make_tables(parent, child)
    copied = entries = huge = 0
    for vma in parent.vmas:
        if vma.dont_fork:
            continue
        if not _is_copied(vma):
            twin = replace(vma, anon_vma=0, inherited=False, locked=False, frame=_empty(), writable=_no())
        else:
            copied += 1
            twin, count = _copy_entries(parent, child, vma)
            blocks = _copy_huge(parent, child, vma)
            entries += count - blocks * HUGE
            huge += blocks
        child.vmas.append(twin)
    parent.tlb.flush()
    return child, ForkWork(len(child.vmas), copied, entries, tables, huge)


def _copy_huge(parent: AddressSpace, child: AddressSpace, vma: Vma) -> int:
    """One entry of the middle level for each huge page, and a table in reserve (mm/huge_memory.c
    copy_huge_pmd); how many."""
    blocks = blocks_in(parent.tables, vma.start, vma.end)
    for block in blocks:
        frame = int(vma.frame[block * HUGE - vma.start])
        if frame != ZERO_FRAME:
            parent.frames.map_huge(frame, child)
    child.tables.huge.update(blocks)
    return len(blocks)


def _copy_entries(space: AddressSpace, child: AddressSpace, vma: Vma) -> tuple[Vma, int]:
    """Write-protects in both; pages are no longer exclusive to one process (copy_present_ptes). Those that a
    device may write to stay as they are; of them the child gets copies."""
    held = _held(space, vma)
    present = vma.frame != NO_FRAME
    shared = vma.frame[present & ~held].astype(np.intp)
    small = ~large_entries(space.tables, vma) if space.tables.huge else True
    space.frames.map(vma.frame[present & ~held & small].astype(np.intp), child)
    space.frames.exclusive[shared[space.frames.kind[shared] == Kind.ANON]] = False
    vma.writable &= held
    twin = replace(vma, anon_vma=new_anon_vma(), inherited=True, locked=False)
    twin.frame, twin.writable = vma.frame.copy(), np.zeros(vma.pages, bool)
    if held.any():
        pages = np.flatnonzero(held)
        own = space.frames.allocate(pages.size, Kind.ANON, vma.policy, vma.offsets(pages))
        twin.frame[held] = own
        space.frames.map(own, child)
        space.frames.exclusive[own] = True
        twin.writable[held] = bool(vma.prot & Prot.WRITE)
    return twin, int(present.sum())


def _held(space: AddressSpace, vma: Vma) -> npt.NDArray[np.bool_]:
    """Which pages are copied at fork for a device's sake (copy_present_page); a huge page is split first
    (copy_huge_pmd)."""
    held = np.zeros(vma.pages, bool)
    if space.frames.pinned.size:
        held[:] = (vma.frame != NO_FRAME) & space.frames.held(vma.frame.astype(np.intp))
        for block in blocks_in(space.tables, vma.start, vma.end):
            if held[block * HUGE - vma.start]:
                split(space, vma, block)
    return held


def _is_copied(vma: Vma) -> bool:
    """Whether a child inherits its entries (vma_needs_copy)."""
    return bool(vma.anon_vma) and not (vma.dont_fork or vma.wipe_on_fork)


def _make_tables(parent: AddressSpace, child: AddressSpace) -> int:
    """Makes the child's page tables; how many of the lowest level. Raises OutOfFrames or GroupFull if there
    is no room for them and the copies of pages that are held: before anything was changed."""
    copied = [vma for vma in parent.vmas if _is_copied(vma)]
    found = Tables()
    made = sum(found.copy_range(parent.tables, vma.start, vma.end) for vma in copied)
    held = 0
    if parent.frames.pinned.size:
        held = sum(int(parent.frames.held(parent.resident(vma)).sum()) for vma in copied)
    parent.frames.admit(held + found.pages)
    child.tables.become(found)
    return made


def _empty() -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.empty(0, np.int32)


def _no() -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.empty(0, bool)
