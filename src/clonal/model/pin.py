"""Pinned pages: those that a device may write to behind the process's back (mm/gup.c, 6.18)."""

from __future__ import annotations

import numpy as np

from clonal.model.errors import BadFlags
from clonal.model.faults import Faults
from clonal.model.flags import Kind
from clonal.model.frames import NO_FRAME, Frames, Indices
from clonal.model.space import AddressSpace


class Pin:
    """Holds frames until `release()`, whatever becomes of the mappings. `faults`: what that took."""

    def __init__(self, frames: Frames, held: Indices, faults: Faults) -> None:
        self._frames, self._held, self.faults = frames, held, faults
        frames.pin(held)

    def release(self) -> None:
        """unpin_user_pages; again it does nothing."""
        self._frames.unpin(self._held)
        self._held = self._held[:0]


def frames_of(space: AddressSpace, start: int, end: int) -> Indices:
    """The frames behind pages [start, end), all of which have been written to."""
    parts = []
    for vma in space.between(start, end):
        if vma.shared and vma.file is not None and vma.file.kind is Kind.FILE:
            raise BadFlags(vma.flags, "shared pages of a file on a disk cannot be pinned for long")
        parts.append(vma.frame[max(start - vma.start, 0) : end - vma.start])
    found = np.concatenate(parts).astype(np.intp)
    assert (found != NO_FRAME).all()
    return found
