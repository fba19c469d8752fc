"""MADV_COLLAPSE: small pages of anonymous memory become huge ones (mm/khugepaged.c, 6.18)."""

from __future__ import annotations

import numpy as np

from clonal.model.errors import BadFlags, Unmodelled
from clonal.model.flags import HUGE, Advice, Prot
from clonal.model.frames import ZERO_FRAME
from clonal.model.space import AddressSpace
from clonal.model.vma import Vma


def collapse(space: AddressSpace, vma: Vma, start: int, end: int) -> int:
    """Collapses the whole blocks in [start, end) of a mapping; how many pages were copied. A block without a
    page table cannot be: it is passed over, and told at the end. Raises BadFlags (madvise_collapse)."""
    if vma.file is not None or vma.shared:
        raise Unmodelled("MADV_COLLAPSE of files")
    if not vma.anon_vma or vma.hugepage is False or vma.end // HUGE * HUGE - HUGE < vma.start:
        raise BadFlags(Advice.COLLAPSE, "only where huge pages are allowed and something was written")
    blocks = range(-(-start // HUGE), end // HUGE)
    failed = blocks.start > blocks.stop or any(block not in space.tables.at[0] for block in blocks)
    todo = [block for block in blocks if block in space.tables.at[0] and block not in space.tables.huge]
    copied = sum(_block(space, vma, block) for block in todo)
    if failed:
        raise BadFlags(Advice.COLLAPSE, "there is nothing in a part of the range")
    return copied


def _block(space: AddressSpace, vma: Vma, block: int) -> int:
    """Copies what is there, whoever else has it, into a new huge page; zeroes the rest. The table is kept in
    reserve, and flushed from TLBs (collapse_huge_page, pmdp_collapse_flush)."""
    first = block * HUGE - vma.start
    part = slice(first, first + HUGE)
    old = vma.frame[part]
    present = old[old > ZERO_FRAME].astype(np.intp)
    new = space.frames.allocate_huge()
    space.frames.unmap(present, space)
    space.frames.map_huge(int(new[0]), space)
    space.frames.exclusive[new] = True
    vma.entries[part], vma.writable[part] = new, bool(vma.prot & Prot.WRITE)
    space.tables.huge.add(block)
    space.tlb.flush()
    return int(present.size)
