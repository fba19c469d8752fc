"""What fork does to an address space (kernel/fork.c dup_mmap, mm/memory.c copy_page_range, 6.18)."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from clonal.model.flags import Kind
from clonal.model.frames import NO_FRAME
from clonal.model.space import AddressSpace
from clonal.model.vma import Vma


class ForkWork(NamedTuple):
    """What a fork had to do: the counts that its time depends on."""

    vmas: int = 0
    copied_vmas: int = 0  # those with an anon_vma, whose entries are copied
    entries: int = 0
    tables: int = 0  # PTE tables made for the child


def duplicate(parent: AddressSpace) -> tuple[AddressSpace, ForkWork]:
    """The child's address space. Only mappings in which something was written privately have their entries
    copied (vma_needs_copy); of the others the child faults again."""
    child = AddressSpace(parent.frames)
    copied = entries = tables = 0
    for vma in parent.vmas:
        if vma.dont_fork:
            continue
        if vma.wipe_on_fork or not vma.anon_vma:
            twin = replace(vma, anon_vma=False, locked=False, frame=_empty(), writable=_no())
        else:
            copied += 1
            tables += child.tables.copy_range(parent.tables, vma.start, vma.end)
            twin, count = _copy_entries(parent, vma)
            entries += count
        child.vmas.append(twin)
    return child, ForkWork(len(child.vmas), copied, entries, tables)


def _copy_entries(space: AddressSpace, vma: Vma) -> tuple[Vma, int]:
    """Write-protects in both; pages are no longer exclusive to one process (copy_present_ptes)."""
    vma.writable[:] = False
    present = vma.frame[vma.frame != NO_FRAME].astype(np.intp)
    space.frames.map(present)
    space.frames.exclusive[present[space.frames.kind[present] == Kind.ANON]] = False
    twin = replace(vma, locked=False, frame=vma.frame.copy(), writable=np.zeros(vma.pages, bool))
    return twin, present.size


def _empty() -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.empty(0, np.int32)


def _no() -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.empty(0, bool)
