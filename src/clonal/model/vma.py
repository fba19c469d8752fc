"""One mapping of an address space (struct vm_area_struct) with the page-table entries in its range."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from clonal.model.files import File
from clonal.model.flags import Map, Prot
from clonal.model.frames import NO_FRAME
from clonal.model.numa import DEFAULT, Policy

Entries = npt.NDArray[np.int32]
Bits = npt.NDArray[np.bool_]


new_anon_vma = itertools.count(1).__next__


@dataclass
class Vma:
    """Pages [start, end). `frame[i]` is the frame that the entry of page start + i maps, or -1; `writable[i]`
    whether the hardware lets a write through: never on a page that others share privately."""

    start: int
    end: int
    prot: Prot
    flags: Map
    file: File | None = None
    offset: int = 0  # pages into the file
    anon_vma: int = 0  # not 0: something in it was written privately, so fork copies its entries
    inherited: bool = False  # something was in the parent already (vma_is_fork_child)
    dont_fork: bool = False
    wipe_on_fork: bool = False
    hugepage: bool | None = None  # MADV_HUGEPAGE, MADV_NOHUGEPAGE
    locked: bool = False
    accounted: bool = False  # counts as committed, touched or not (VM_ACCOUNT)
    policy: Policy = DEFAULT  # on which nodes its pages should be (vm_policy)
    frame: Entries = field(default_factory=lambda: np.empty(0, np.int32))
    writable: Bits = field(default_factory=lambda: np.empty(0, bool))

    def __post_init__(self) -> None:
        if self.frame.size != self.pages:
            self.clear()

    @property
    def pages(self) -> int:
        """Its length."""
        return self.end - self.start

    @property
    def shared(self) -> bool:
        """MAP_SHARED: never copied on write."""
        return bool(self.flags & Map.SHARED)

    def offsets(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Of pages of it, in the file or, if it has none, in the address space (vm_pgoff)."""
        return index + (self.start if self.file is None else self.offset)

    def clear(self) -> None:
        """No entries, as after mmap: that takes no memory, however long the mapping is."""
        self.frame = np.broadcast_to(np.int32(NO_FRAME), self.pages)
        self.writable = np.zeros(self.pages, bool)

    @property
    def entries(self) -> Entries:
        """`frame`, to be changed."""
        if not self.frame.flags.writeable:
            self.frame = self.frame.copy()
        return self.frame

    def part(self, start: int, end: int) -> Vma:
        """The pages [start, end) of it as a mapping of its own; shares no array with it."""
        first, last = start - self.start, end - self.start
        return replace(
            self,
            start=start,
            end=end,
            offset=self.offset + first if self.file is not None else 0,
            frame=self.frame[first:last].copy(),
            writable=self.writable[first:last].copy(),
        )

    def joins(self, after: Vma) -> bool:
        """Whether the kernel would make one mapping of this one and the one behind it (mm/vma.c
        can_vma_merge_after)."""
        return (
            self.end == after.start
            and self._alike() == after._alike()
            and self._goes_on_in(after)
            and self._may_share(after)
        )

    def _may_share(self, after: Vma) -> bool:
        """Whether they have the same anon_vma, or one may take over the other's: not one that comes from the
        parent (is_mergeable_anon_vma)."""
        if self.anon_vma and after.anon_vma:
            return self.anon_vma == after.anon_vma
        return not (self.inherited or after.inherited)

    def lends(self, other: Vma) -> int:
        """Its anon_vma, if a neighbour that differs in no more than protection may have the same; else 0
        (mm/vma.c reusable_anon_vma, anon_vma_compatible)."""
        mine, others = self._alike()[1:], other._alike()[1:]
        first, second = sorted((self, other), key=lambda each: each.start)
        joined = first.end == second.start and first._goes_on_in(second)
        return self.anon_vma if mine == others and joined and not self.inherited else 0

    def _goes_on_in(self, after: Vma) -> bool:
        return self.file is None or self.offset + self.pages == after.offset

    def _alike(self) -> tuple[Any, ...]:
        flags = self.flags & ~Map.POPULATE
        marks = self.dont_fork, self.wipe_on_fork, self.locked, self.accounted, self.hugepage
        return self.prot, flags, id(self.file), marks, self.policy

    def join(self, after: Vma) -> None:
        """Takes over the one behind it."""
        self.end = after.end
        self.anon_vma = self.anon_vma or after.anon_vma
        self.inherited |= after.inherited
        self.frame = np.concatenate([self.frame, after.frame])
        self.writable = np.concatenate([self.writable, after.writable])
