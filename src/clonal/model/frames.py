"""Physical memory: frames, who maps them and how often (mm/page_alloc.c, include/linux/mm_types.h)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clonal.model.banks import Banks
from clonal.model.cgroup import Ledger
from clonal.model.errors import OutOfFrames
from clonal.model.flags import HUGE, Kind
from clonal.model.numa import DEFAULT, Distances, Policy
from clonal.model.tables import Total

Indices = npt.NDArray[np.intp]
ZERO_FRAME = 0
NO_FRAME = -1


class Folio:
    """A huge page: 512 frames that are free only together.

    `mappings` counts the page-table entries that map it or a page of it, of either level. The kernel knows
    how many are of each of two address spaces, and of further ones only that there are some
    (include/linux/rmap.h folio_add_return_large_mapcount, 6.15).
    """

    def __init__(self, frames: Indices) -> None:
        self.frames = frames
        self.mappings = 0
        self.pins = 0
        self._known: dict[int, int] = {}  # entries by address space, of at most two

    @property
    def shared(self) -> bool:
        """Whether entries of more than one address space map it, as far as is known
        (folio_maybe_mapped_shared)."""
        return self.mappings not in self._known.values()

    @property
    def alone(self) -> bool:
        """Whether a write to a page of it takes that over."""
        return self.mappings > 1 and not self.shared

    def add(self, space: object, entries: int) -> None:
        """More entries of `space` map it; fewer, if negative."""
        self.mappings += entries
        if id(space) in self._known or (entries > 0 and len(self._known) < 2):
            count = self._known.pop(id(space), 0) + entries
            if count > 0:
                self._known[id(space)] = count


class Frames:
    """All frames of the machine. Frame 0 is the zero page, which is never counted.

    `mapped[f]` is how many entries of page tables map frame f (its mapcount), `exclusive[f]` whether it is an
    anonymous page that one process alone has (PageAnonExclusive), `kind[f]` what it holds, `head[f]` the
    first frame of the huge page that it is of, or 0.
    """

    def __init__(self, count: int, distances: Distances) -> None:
        self.count = count
        self.used = 0  # by pages
        self.flushes = 0  # of TLBs, that all address spaces asked for, those that are gone too
        self.tables = Total()
        self.ledger = Ledger()
        self.banks = Banks(count, distances)
        self.mapped = np.zeros(1024, np.int32)
        self.exclusive = np.zeros(1024, bool)
        self.kind = np.zeros(1024, np.uint8)
        self.head = np.zeros(1024, np.int32)
        self.folios: dict[int, Folio] = {}  # by their head
        self.pinned = np.zeros(0, np.int32)  # how often each frame is; empty until one was
        self.kind[ZERO_FRAME] = Kind.ZERO

    @property
    def free(self) -> int:
        """How many frames are left by pages and page tables."""
        return self.count - self.used - self.tables.pages

    @property
    def room(self) -> int:
        """How many more the process whose access is being handled may have."""
        return min(self.free, self.ledger.room())

    def allocate(
        self, count: int, kind: Kind, policy: Policy = DEFAULT, offsets: npt.NDArray[np.int64] | None = None
    ) -> Indices:
        """`count` frames that nothing maps yet, on nodes as the mapping's policy says for pages at these
        offsets. Raises OutOfFrames, GroupFull."""
        if not count:
            return np.empty(0, np.intp)
        self.admit(count)
        found = self.banks.take(count, policy, offsets)
        self.used += count
        self._grow(self.banks.top)
        self.kind[found] = kind
        self.ledger.charge(found)
        return found

    def admit(self, count: int, taken: int = 0) -> None:
        """Whether there is room for `count` frames, of which so many are taken. Raises OutOfFrames,
        GroupFull."""
        if count > self.free + taken:
            raise OutOfFrames(count, self.free + taken)
        self.ledger.admit(count, taken)

    def _grow(self, size: int) -> None:
        if size > self.kind.size:
            more = max(size, 2 * self.kind.size) - self.kind.size
            self.mapped = np.concatenate([self.mapped, np.zeros(more, np.int32)])
            self.exclusive = np.concatenate([self.exclusive, np.zeros(more, bool)])
            self.kind = np.concatenate([self.kind, np.zeros(more, np.uint8)])
            self.head = np.concatenate([self.head, np.zeros(more, np.int32)])

    def allocate_huge(self, policy: Policy = DEFAULT, offset: int = 0) -> Indices:
        """The frames of a new huge page that nothing maps yet, all on one node if that has so many; `offset`
        is in huge pages. Raises OutOfFrames."""
        found = self.allocate(HUGE, Kind.ANON, policy, np.full(HUGE, offset))
        self.head[found] = found[0]
        self.folios[int(found[0])] = Folio(found)
        return found

    def folio(self, frame: int) -> Folio:
        """The huge page that a frame is of."""
        return self.folios[int(self.head[frame])]

    def release(self, frames: Indices) -> None:
        """Gives frames back that nothing maps or caches any more."""
        if frames.size:
            self.used -= frames.size
            self.ledger.uncharge(frames)
            self.kind[frames], self.exclusive[frames] = Kind.NONE, False
            self.banks.give(frames)

    def map(self, frames: Indices, space: object) -> None:
        """One more entry of `space` maps each of `frames`, which are all different; the zero page is not
        counted."""
        self.mapped[frames] += 1
        self.mapped[ZERO_FRAME] = 0
        self._in_folios(frames, space, 1)

    def unmap(self, frames: Indices, space: object) -> None:
        """One entry less maps each of `frames`, which are all different; anonymous ones that nothing maps any
        more are free. Those of files stay in the page cache, those of huge pages as long as one of them is
        mapped."""
        real = frames[frames != ZERO_FRAME]
        self.mapped[real] -= 1
        gone = (self.mapped[real] == 0) & (self.kind[real] == Kind.ANON)
        if self.folios:
            gone &= self.head[real] == 0
        if self.pinned.size:
            gone &= ~self._pinned(real)
        self.release(real[gone])
        self._in_folios(real, space, -1)

    def map_huge(self, frame: int, space: object) -> None:
        """One more entry of the middle level maps the huge page of `frame`."""
        self.mapped[self.folio(frame).frames] += 1
        self.folio(frame).add(space, 1)

    def unmap_huge(self, frame: int, space: object) -> None:
        """One entry of the middle level less."""
        folio = self.folio(frame)
        self.mapped[folio.frames] -= 1
        self._less(folio, space, 1)

    def split_entry(self, frame: int, space: object) -> None:
        """An entry of the middle level has become one for each page."""
        self.folio(frame).add(space, HUGE - 1)

    def _in_folios(self, frames: Indices, space: object, sign: int) -> None:
        if not self.folios:
            return
        heads, counts = np.unique(self.head[frames], return_counts=True)
        for head, count in zip(heads.tolist(), counts.tolist(), strict=True):
            if head and sign > 0:
                self.folios[head].add(space, count)
            elif head:
                self._less(self.folios[head], space, count)

    def _less(self, folio: Folio, space: object, entries: int) -> None:
        folio.add(space, -entries)
        self._free_unused(folio)

    def _free_unused(self, folio: Folio) -> None:
        if not folio.mappings and not folio.pins:
            del self.folios[int(folio.frames[0])]
            self.head[folio.frames] = 0
            self.release(folio.frames)

    def pin(self, frames: Indices) -> None:
        """Keeps them from being freed, and from being shared by fork (FOLL_PIN)."""
        more = self.kind.size - self.pinned.size
        self.pinned = np.concatenate([self.pinned, np.zeros(more, np.int32)])
        self._pin(frames, 1)

    def unpin(self, frames: Indices) -> None:
        """Once less; what nothing maps and nothing else pins is free."""
        self._pin(frames, -1)
        loose = frames[(self.mapped[frames] == 0) & ~self._pinned(frames) & (self.head[frames] == 0)]
        self.release(loose[self.kind[loose] == Kind.ANON])

    def _pin(self, frames: Indices, sign: int) -> None:
        self.pinned[frames] += sign
        heads, counts = np.unique(self.head[frames], return_counts=True)
        for head, count in zip(heads.tolist(), counts.tolist(), strict=True):
            if head:
                self.folios[head].pins += sign * count
                self._free_unused(self.folios[head])

    def _pinned(self, frames: Indices) -> npt.NDArray[np.bool_]:
        known = frames < self.pinned.size
        found: npt.NDArray[np.bool_] = known & (self.pinned[np.where(known, frames, 0)] > 0)
        return found

    def held(self, frames: Indices) -> npt.NDArray[np.bool_]:
        """Which are one process's alone and may be pinned: of a huge page all if one is, since the count is
        that of the folio (include/linux/mm.h folio_needs_cow_for_dma)."""
        if not self.pinned.size:
            return np.zeros(frames.size, bool)
        heads, which = np.unique(self.head[frames], return_inverse=True)
        pinned = np.array([bool(head) and self.folios[head].pins > 0 for head in heads.tolist()], bool)
        found: npt.NDArray[np.bool_] = self.exclusive[frames] & (self._pinned(frames) | pinned[which])
        return found

    def alone(self, frames: Indices, large: bool) -> npt.NDArray[np.bool_]:
        """Which anonymous `frames` no other process has, so that a write may take them over (mm/memory.c
        do_wp_page, wp_can_reuse_anon_folio). Those of a huge page only if `large` (6.15), and if all entries
        that map any of it are of one address space, and more than one: where one is left, a copy frees the
        whole (__wp_can_reuse_large_anon_folio)."""
        found: npt.NDArray[np.bool_] = self.mapped[frames] == 1
        if self.folios:
            heads, which = np.unique(self.head[frames], return_inverse=True)
            own = [bool(head) and large and self.folios[head].alone for head in heads.tolist()]
            found = np.where(self.head[frames] != 0, np.array(own, bool)[which], found)
        return self.exclusive[frames] | found
