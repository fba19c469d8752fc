"""An access for which memory does not suffice has changed nothing: how it is taken back.

The kernel leaves such an access half done, kills somebody and tries again. In the model the caller decides,
and what it sees then should not depend on how far the access came.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from clonal.model.errors import GroupFull, OutOfFrames
from clonal.model.flags import HUGE
from clonal.model.frames import NO_FRAME, Frames, Indices
from clonal.model.huge import large_entries
from clonal.model.space import AddressSpace
from clonal.model.vma import Vma

PageNumbers = npt.NDArray[np.int64]
LEVELS = 3  # tables that one page may need


@contextmanager
def undone_if_full(space: AddressSpace, pages: PageNumbers) -> Iterator[None]:
    """An access to `pages`, in order, that is taken back when it raises OutOfFrames or GroupFull. Nothing is
    kept for that if there is certainly enough."""
    before = None if _plenty(space.frames, pages) else Before(space, pages)
    try:
        yield
    except (OutOfFrames, GroupFull):
        if before is not None:
            before.restore()
        raise


def _plenty(frames: Frames, pages: PageNumbers) -> bool:
    """Whether there is room for the most that an access can take, on any node: each page read from a file and
    copied, each block a huge page and its tables."""
    if not pages.size:
        return True
    blocks = min(pages.size, int(pages[-1] - pages[0]) // HUGE + 2)
    return 2 * pages.size + blocks * (HUGE + LEVELS) <= min(frames.room, *frames.banks.left)


class Before:
    """An address space as it was before an access to some pages."""

    def __init__(self, space: AddressSpace, pages: PageNumbers) -> None:
        self.space, self.tables = space, space.tables.copy()
        self.splits, self.flushes = space.splits, space.tlb.flushes
        self.mappings = [
            Mapping(space, vma)
            for vma in space.vmas
            if np.diff(np.searchsorted(pages, [vma.start, vma.end]))[0]
        ]

    def restore(self) -> None:
        """What files had not in the cache goes last: mappings may share them."""
        for each in self.mappings:
            each.restore_entries(self.space)
        for each in self.mappings:
            each.restore_cache(self.space.frames)
        self.space.tables.become(self.tables)
        self.space.splits = self.splits
        self.space.tlb.flush(self.flushes - self.space.tlb.flushes)


class Mapping:
    """One mapping as it was."""

    def __init__(self, space: AddressSpace, vma: Vma) -> None:
        self.vma, self.frame, self.writable = vma, vma.frame.copy(), vma.writable.copy()
        self.anon_vma = vma.anon_vma
        self.large = large_entries(space.tables, vma)
        self.exclusive = space.frames.exclusive[self.frame]
        self.cache = None if vma.file is None else _cache(vma).copy()

    def restore_entries(self, space: AddressSpace) -> None:
        """What was mapped is so again before what is now is given up: so nothing old is freed."""
        vma, frames = self.vma, space.frames
        large = large_entries(space.tables, vma)
        changed = (vma.frame != self.frame) | (large != self.large)
        frames.map(_real(self.frame[changed & ~self.large]), space)
        for frame in _real(self.frame[changed & self.large])[::HUGE].tolist():
            frames.map_huge(frame, space)
        frames.unmap(_real(vma.frame[changed & ~large]), space)
        for frame in _real(vma.frame[changed & large])[::HUGE].tolist():
            frames.unmap_huge(frame, space)
        present = self.frame != NO_FRAME
        frames.exclusive[self.frame[present]] = self.exclusive[present]
        vma.entries[:], vma.writable[:], vma.anon_vma = self.frame, self.writable, self.anon_vma

    def restore_cache(self, frames: Frames) -> None:
        """Pages of the file that the access read are in the cache no more."""
        if self.cache is not None:
            now = _cache(self.vma)
            frames.release(_real(now[now != self.cache]))
            now[:] = self.cache


def _cache(vma: Vma) -> npt.NDArray[np.int32]:
    assert vma.file is not None
    return vma.file.frame[vma.offset : vma.offset + vma.pages]


def _real(frame: npt.NDArray[np.int32]) -> Indices:
    """The frames but for the zero page, which nobody counts."""
    return frame[frame > 0].astype(np.intp)
