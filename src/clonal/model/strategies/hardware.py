"""Copy-on-write by hardware: it sees the first write to a shared page and copies it, without a trap."""

from __future__ import annotations

import numpy.typing as npt

from clonal.model.process import Process
from clonal.model.strategies.base import Born, Strategy, Work, forked


class Hardware(Strategy):
    """A thought: fork as Linux has it, and the same pages are copied after it, but a write costs no fault.
    What is not mapped yet still faults."""

    name = "hardware"

    def fork(self, parent: Process) -> Born:
        return Born(*forked(parent))

    def touch(self, process: Process, pages: npt.ArrayLike, write: bool = True) -> Work:
        absent = process.touch(pages, write=False)  # what a fault has to map first
        work = super().touch(process, pages, write) if write else Work()
        return work._replace(faults=absent.minor + absent.major)
