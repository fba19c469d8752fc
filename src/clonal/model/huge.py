"""Huge pages of anonymous memory: 2 MiB behind one entry of the middle level (mm/huge_memory.c, 6.18).

A block is a page number // 512. `Tables.huge` holds the blocks that one entry maps; their pages have frames
in `Vma.frame` as any others, 0 throughout for the huge zero page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from clonal.model.flags import HUGE, Config
from clonal.model.frames import ZERO_FRAME
from clonal.model.tables import Tables
from clonal.model.vma import Vma

if TYPE_CHECKING:
    from clonal.model.space import AddressSpace

Made = tuple[int, int, int, int, int]  # the first of Faults: minor, major, copied, reused, zeroed


def wanted(vma: Vma, config: Config) -> bool:
    """Whether faults of this mapping make huge pages (thp_vma_allowable_orders)."""
    if vma.file is not None or vma.shared or vma.hugepage is False:
        return False
    return config.thp == "always" or (config.thp == "madvise" and vma.hugepage is True)


def blocks_in(tables: Tables, start: int, end: int) -> list[int]:
    """The blocks of pages [start, end) that one entry maps, whole blocks only."""
    first, last = -(-start // HUGE), end // HUGE
    if last - first > len(tables.huge):
        return sorted(block for block in tables.huge if first <= block < last)
    return [block for block in range(first, last) if block in tables.huge]


def large_entries(tables: Tables, vma: Vma) -> npt.NDArray[np.bool_]:
    """Which pages of a mapping are behind entries of the middle level."""
    found = np.zeros(vma.pages, bool)
    for block in blocks_in(tables, vma.start, vma.end):
        found[_part(vma, block)] = True
    return found


def touch(space: AddressSpace, vma: Vma, index: npt.NDArray[np.int64], write: bool, config: Config) -> Made:
    """What an access does at the middle level. What is left to the lowest, because there is a table or the
    entry had to be split, is not counted here."""
    minor = reused = zeroed = 0
    for block in np.unique((index + vma.start) // HUGE).tolist():
        if block not in space.tables.huge:
            made = _fault(space, vma, block, write, config)
        elif write and not vma.writable[block * HUGE - vma.start]:
            made = _write(space, vma, block, config)
        else:
            continue
        minor, reused, zeroed = minor + any(made), reused + made[1], zeroed + made[2]
    return minor, 0, 0, reused, zeroed


_NOTHING = (0, 0, 0)  # fault, pages reused, pages zeroed


def _fault(space: AddressSpace, vma: Vma, block: int, write: bool, config: Config) -> tuple[int, int, int]:
    """do_huge_pmd_anonymous_page: where the block is the mapping's throughout and has no table yet. A read,
    too, gives the mapping an anon_vma."""
    start = block * HUGE
    if not wanted(vma, config) or not vma.start <= start <= vma.end - HUGE or block in space.tables.at[0]:
        return _NOTHING
    space.reach(np.array([start]))
    if write and space.frames.room < HUGE:
        return _NOTHING  # small pages are tried instead (VM_FAULT_FALLBACK)
    space.prepare_anon_vma(vma)
    space.tables.huge.add(block)
    vma.entries[_part(vma, block)] = ZERO_FRAME
    return _fill(space, vma, block) if write else (1, 0, 0)


def _fill(space: AddressSpace, vma: Vma, block: int) -> tuple[int, int, int]:
    """A zeroed huge page of this process alone (map_anon_folio_pmd)."""
    frames, part = space.frames.allocate_huge(vma.policy, block), _part(vma, block)
    space.frames.map_huge(int(frames[0]), space)
    space.frames.exclusive[frames] = True
    vma.entries[part], vma.writable[part] = frames, True
    return 1, 0, HUGE


def _write(space: AddressSpace, vma: Vma, block: int, config: Config) -> tuple[int, int, int]:
    """do_huge_pmd_wp_page: all of it is reused if no one else has any of it; else the entry is split, and the
    page copied like any other. The huge zero page is filled, its entry flushed (do_huge_zero_wp_pmd, 6.13;
    split before)."""
    part = _part(vma, block)
    frame = int(vma.frame[part.start])
    if frame == ZERO_FRAME and config.kernel >= (6, 13) and space.frames.room >= HUGE:
        space.tlb.flush()
        return _fill(space, vma, block)
    if frame != ZERO_FRAME and (space.frames.exclusive[frame] or space.frames.folio(frame).mappings == 1):
        space.frames.exclusive[vma.frame[part]] = True
        vma.writable[part] = True
        return 1, HUGE, 0
    split(space, vma, block)
    return _NOTHING


def split(space: AddressSpace, vma: Vma, block: int) -> None:
    """The entry of a block becomes 512 of the table that was in reserve, after a flush
    (__split_huge_pmd_locked, pmdp_invalidate)."""
    space.splits += 1
    space.tlb.flush()
    space.tables.huge.remove(block)
    frame = int(vma.frame[block * HUGE - vma.start])
    if frame != ZERO_FRAME:
        space.frames.split_entry(frame, space)


def split_at(space: AddressSpace, page: int) -> None:
    """A huge page that reaches over the border before `page` is split (vma_adjust_trans_huge)."""
    block, within = divmod(page, HUGE)
    if within and block in space.tables.huge:
        vma = space.find(page)
        assert vma is not None
        split(space, vma, block)


def zap(space: AddressSpace, vma: Vma, start: int, end: int) -> None:
    """Huge pages in [start, end) of a mapping go, with the tables in reserve; those that reach out of it are
    split (zap_pmd_range, zap_huge_pmd)."""
    split_at(space, start)
    split_at(space, end)
    for block in blocks_in(space.tables, start, end):
        part = _part(vma, block)
        frame = int(vma.frame[part.start])
        if frame != ZERO_FRAME:
            space.frames.unmap_huge(frame, space)
        vma.entries[part], vma.writable[part] = -1, False
        space.tables.drop(block)


def _part(vma: Vma, block: int) -> slice:
    first = block * HUGE - vma.start
    return slice(first, first + HUGE)


def move(space: AddressSpace, vma: Vma, to: int) -> None:
    """At mremap of all of a mapping to page `to`: huge pages move as they are, with the tables in reserve, if
    both ends lie alike in their blocks; else they are split (mm/mremap.c move_page_tables)."""
    distance, within = divmod(to - vma.start, HUGE)
    for block in blocks_in(space.tables, vma.start, vma.end):
        if within:
            split(space, vma, block)
        else:
            space.tables.reach(np.array([(block + distance) * HUGE]))
            space.tables.huge.add(block + distance)
            space.tables.drop(block)
