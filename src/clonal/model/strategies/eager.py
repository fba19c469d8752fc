"""Fork before copy-on-write: the child gets a copy of every page at once."""

from __future__ import annotations

import numpy as np

from clonal.model.flags import Prot
from clonal.model.process import Process
from clonal.model.strategies.base import Born, PageNumbers, Strategy, Work, anonymous, forked


class Eager(Strategy):
    """What may be written is copied; text and other memory that may only be read was shared even then."""

    name = "eager"

    def fork(self, parent: Process) -> Born:
        child, work = forked(parent)
        before = parent.faults, child.faults
        pages = _own_pages(parent)
        try:
            copied = child.touch(pages).copied
        except BaseException:
            child.exit(-1)
            raise
        parent.touch(pages)  # it was never protected
        parent.faults, child.faults = before
        child.space.tlb.flush(-child.tlb_flushes)
        return Born(child, work + Work(copied=copied))


def _own_pages(process: Process) -> PageNumbers:
    """The anonymous pages of mappings that a child inherits and may write."""
    found = [
        vma.start + anonymous(process, vma)
        for vma in process.space.vmas
        if vma.anon_vma and vma.prot & Prot.WRITE and not (vma.dont_fork or vma.wipe_on_fork)
    ]
    return np.concatenate([np.empty(0, np.int64), *found])
