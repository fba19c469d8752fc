"""One mapping of an address space (struct vm_area_struct) with the page-table entries in its range."""

from __future__ import annotations

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
    anon_vma: bool = False  # something in it was written privately: fork copies its entries
    inherited: bool = False  # that was so in the parent (vma_is_fork_child)
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
            and (self.file is None or self.offset + self.pages == after.offset)
            and self._may_share(after)
        )

    def _may_share(self, after: Vma) -> bool:
        """Whether one may take over the other's anon_vma: not one that is a parent's too
        (is_mergeable_anon_vma). Two different ones are taken for the same."""
        if self.anon_vma == after.anon_vma:
            return True
        return not (self if self.anon_vma else after).inherited

    def _alike(self) -> tuple[Any, ...]:
        flags = self.flags & ~Map.POPULATE
        marks = self.dont_fork, self.wipe_on_fork, self.locked, self.accounted, self.hugepage
        return self.prot, flags, id(self.file), marks, self.policy

    def join(self, after: Vma) -> None:
        """Takes over the one behind it."""
        self.end = after.end
        self.anon_vma |= after.anon_vma
        self.inherited |= after.inherited
        self.frame = np.concatenate([self.frame, after.frame])
        self.writable = np.concatenate([self.writable, after.writable])
