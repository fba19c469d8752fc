"""Which page tables an address space has, at the three levels that count (mm->pgtables_bytes: VmPTE)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from clonal.model.flags import PAGE

LEVELS = (9, 18, 27)  # a PTE, PMD, PUD table spans 2^9, 2^18, 2^27 pages


class Total:
    """How many page tables there are in all address spaces of a machine: each takes a frame."""

    def __init__(self) -> None:
        self.pages = 0


class Tables:
    """`at[level]` holds the numbers of the tables there are: page number >> LEVELS[level]. `huge` holds
    those of the PTE tables whose place a huge page has taken: the kernel keeps a table in reserve for each,
    for when it must be split, and that counts too (mm/huge_memory.c pgtable_trans_huge_deposit)."""

    def __init__(self, total: Total | None = None) -> None:
        self.total = total or Total()
        self.at: tuple[set[int], ...] = (set(), set(), set())
        self.huge: set[int] = set()
        self.freed = 0  # tables that went, since the beginning

    @property
    def pages(self) -> int:
        """How many there are, the top level not counted (it is the process's own from the start)."""
        return sum(map(len, self.at))

    @property
    def bytes(self) -> int:
        """What they take."""
        return PAGE * self.pages

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """A change that the total follows."""
        before = self.pages
        yield
        self.total.pages += self.pages - before
        self.freed += max(before - self.pages, 0)

    def copy(self) -> Tables:
        """The same, counted in no machine."""
        twin = Tables()
        twin.become(self)
        return twin

    def become(self, other: Tables) -> None:
        """Has what `other` has."""
        with self._counted():
            self.at, self.huge = tuple(map(set, other.at)), set(other.huge)

    def reach(self, pages: npt.NDArray[np.int64]) -> None:
        """Makes the tables for the entries of `pages`, which are in order."""
        with self._counted():
            for shift, have in zip(LEVELS, self.at, strict=True):
                tables = pages >> shift
                first = np.ones(tables.size, bool)
                np.not_equal(tables[1:], tables[:-1], out=first[1:])
                pages = pages[first]
                have.update(tables[first].tolist())

    def copy_range(self, other: Tables, start: int, end: int) -> int:
        """At fork: makes those that `other` has for pages [start, end), at each level; how many PTE tables
        that were, beyond those made for an earlier mapping. One without entries is made too (mm/memory.c
        copy_pud_range, copy_pmd_range and copy_pte_range allocate before they look)."""
        before = len(self.at[0])
        with self._counted():
            for shift, mine, others in zip(LEVELS, self.at, other.at, strict=True):
                first, last = start >> shift, (end - 1) >> shift
                mine.update(table for table in others if first <= table <= last)
        return len(self.at[0]) - before

    def drop(self, table: int) -> None:
        """A PTE table goes, or a huge page with the table in reserve for it."""
        with self._counted():
            self.at[0].discard(table)
            self.huge.discard(table)

    def move(self, start: int, pages: int, to: int) -> None:
        """Makes tables at `to` for those that pages [start, start + pages) have: entries of a table that is
        not there are not looked for (mm/mremap.c get_old_pmd)."""
        for table in range(start >> LEVELS[0], ((start + pages - 1) >> LEVELS[0]) + 1):
            if table in self.at[0]:
                first = max(table << LEVELS[0], start)
                last = min((table + 1) << LEVELS[0], start + pages) - 1
                self.reach(np.array([first, last], np.int64) - start + to)

    def free(self, start: int, end: int, floor: int, ceiling: int) -> None:
        """After pages [start, end) were unmapped: a table goes if no mapping is left in its span, for which
        the neighbours' ends `floor` and `ceiling` stand (mm/memory.c free_pgd_range)."""
        with self._counted():
            for shift, have in zip(LEVELS, self.at, strict=True):
                span = 1 << shift
                for table in range(start >> shift, ((end - 1) >> shift) + 1):
                    if table * span >= floor and (table + 1) * span <= ceiling:
                        have.discard(table)
