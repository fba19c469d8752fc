"""Physical memory: frames, who maps them and how often (mm/page_alloc.c, include/linux/mm_types.h)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clonal.model.errors import OutOfFrames
from clonal.model.flags import Kind

Indices = npt.NDArray[np.intp]
ZERO_FRAME = 0
NO_FRAME = -1


class Frames:
    """All frames of the machine. Frame 0 is the zero page, which is never counted.

    `mapped[f]` is how many entries of page tables map frame f (its mapcount), `exclusive[f]` whether it is an
    anonymous page that one process alone has (PageAnonExclusive), `kind[f]` what it holds.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.used = 0
        self._next = 1  # frames from here on were never used
        self._freed: list[Indices] = []
        self.mapped = np.zeros(1024, np.int32)
        self.exclusive = np.zeros(1024, bool)
        self.kind = np.zeros(1024, np.uint8)
        self.kind[ZERO_FRAME] = Kind.ZERO

    @property
    def free(self) -> int:
        """How many frames are left."""
        return self.count - self.used

    def allocate(self, count: int, kind: Kind) -> Indices:
        """`count` frames that nothing maps yet. Raises OutOfFrames."""
        if count > self.free:
            raise OutOfFrames(count, self.free)
        self.used += count
        parts = []
        while self._freed and count:
            last = self._freed.pop()
            if last.size > count:
                self._freed.append(last[count:])
                last = last[:count]
            parts.append(last)
            count -= last.size
        if count:
            self._grow(self._next + count)
            parts.append(np.arange(self._next, self._next + count, dtype=np.intp))
            self._next += count
        found = np.concatenate(parts) if parts else np.empty(0, np.intp)
        self.mapped[found] = 0
        self.exclusive[found] = False
        self.kind[found] = kind
        return found

    def _grow(self, size: int) -> None:
        if size > self.kind.size:
            more = max(size, 2 * self.kind.size) - self.kind.size
            self.mapped = np.concatenate([self.mapped, np.zeros(more, np.int32)])
            self.exclusive = np.concatenate([self.exclusive, np.zeros(more, bool)])
            self.kind = np.concatenate([self.kind, np.zeros(more, np.uint8)])

    def release(self, frames: Indices) -> None:
        """Gives frames back that nothing maps or caches any more."""
        if frames.size:
            self.used -= frames.size
            self.kind[frames] = Kind.NONE
            self._freed.append(frames)

    def map(self, frames: Indices) -> None:
        """One more entry maps each of `frames`, which are all different; the zero page is not counted."""
        self.mapped[frames] += 1
        self.mapped[ZERO_FRAME] = 0

    def unmap(self, frames: Indices) -> None:
        """One entry less maps each of `frames`, which are all different; anonymous ones that nothing maps any
        more are free. Those of files stay in the page cache."""
        real = frames[frames != ZERO_FRAME]
        self.mapped[real] -= 1
        self.release(real[(self.mapped[real] == 0) & (self.kind[real] == Kind.ANON)])
