"""Files and memory files: their pages in the page cache (mm/filemap.c, mm/shmem.c)."""

from __future__ import annotations

import itertools

import numpy as np

from clonal.model.flags import Kind
from clonal.model.frames import NO_FRAME, Frames, Indices

_numbers = itertools.count(1)


class File:
    """A file of `pages` pages. `frame[i]` is the page cache's frame of page i, or -1.

    A memory file (`Kind.SHMEM`) has its pages when they are first touched, an ordinary one (`Kind.FILE`) when
    they are read: unless `cached`, that is a major fault.
    """

    def __init__(
        self, frames: Frames, pages: int, kind: Kind, cached: bool = False, ahead: bool = False
    ) -> None:
        self.frames, self.kind, self.inode = frames, kind, next(_numbers)
        self.ahead = ahead  # its whole length is committed from the start (shared anonymous memory)
        self.frame = np.full(pages, NO_FRAME, np.int32)
        if cached:
            self.frame[:] = frames.allocate(pages, kind)

    @property
    def pages(self) -> int:
        """Its length."""
        return self.frame.size

    @property
    def committed(self) -> int:
        """Pages it has committed: memory files as they grow, shared anonymous memory in full (mm/shmem.c
        shmem_acct_size, shmem_inode_acct_blocks), ordinary files none."""
        if self.ahead:
            return self.pages
        return int((self.frame != NO_FRAME).sum()) if self.kind is Kind.SHMEM else 0

    def load(self, pages: Indices) -> int:
        """Brings pages into the cache; how many were not there."""
        missing = pages[self.frame[pages] == NO_FRAME]
        self.frame[missing] = self.frames.allocate(missing.size, self.kind, offsets=missing)
        return int(missing.size)
