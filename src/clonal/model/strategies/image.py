"""The image: the heap becomes a memory file, mapped privately, whose entries fork does not copy
(clonal.freeze)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clonal.model.commit import NEVER
from clonal.model.flags import PAGE, Map
from clonal.model.process import Process
from clonal.model.strategies.base import Born, Strategy, Work, anonymous, forked
from clonal.model.vma import Vma

GAP = 64  # pages: holes up to this long are filled, which keeps mappings few


class Image(Strategy):
    """`prepare` moves every private anonymous page that children inherit into memory files. What is written
    after that is anonymous again, and copied at fork: so the template should be idle. Pages are of 4 KiB
    here."""

    name = "image"

    def prepare(self, parent: Process) -> Work:
        """Run by run, so that only one is there twice. Raises OutOfFrames, CommitRefused."""
        before = parent.faults
        work = Work()
        for vma in [vma for vma in parent.space.vmas if _movable(vma)]:
            for start, end, copied in _runs(parent, vma):
                _move(parent, vma, start, end)
                work += Work(vmas=1, copied=copied, zeroed=end - start - copied)
        parent.faults = before
        return work

    def fork(self, parent: Process) -> Born:
        return Born(*forked(parent))


def _movable(vma: Vma) -> bool:
    kept = vma.shared or vma.file is not None or vma.dont_fork or vma.wipe_on_fork or vma.locked
    return bool(vma.anon_vma) and not kept


def _runs(process: Process, vma: Vma) -> Iterator[tuple[int, int, int]]:
    """First page, last + 1 and written pages of each run without long holes."""
    written = anonymous(process, vma)
    for run in np.split(written, np.flatnonzero(np.diff(written) > GAP + 1) + 1):
        if run.size:
            yield vma.start + int(run[0]), vma.start + int(run[-1]) + 1, run.size


def _move(process: Process, vma: Vma, start: int, end: int) -> None:
    file = process.machine.memfd(end - start)
    file.load(np.arange(end - start))
    spared = Map.NORESERVE if process.machine.config.overcommit != NEVER else Map(0)
    process.munmap(start * PAGE, (end - start) * PAGE)
    process.mmap((end - start) * PAGE, vma.prot, Map.PRIVATE | spared, file, at=start * PAGE)
