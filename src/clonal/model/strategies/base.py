"""What all ways to fork have in common: work as counts of operations, a fork, and accesses after it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from clonal.model.faults import Faults
from clonal.model.flags import Kind
from clonal.model.frames import NO_FRAME
from clonal.model.process import Process
from clonal.model.vma import Vma

PageNumbers = npt.NDArray[np.int64]


class Work(NamedTuple):
    """What somebody had to do, as counts of operations; what one of each takes is for a cost model."""

    vmas: int = 0  # mappings duplicated
    copied_vmas: int = 0  # those of them with an anon_vma: linked to it, and their entries looked at
    entries: int = 0  # page-table entries of 4 KiB copied, their pages counted and protected
    huge: int = 0  # those of the level above, for 2 MiB each
    tables: int = 0  # PTE tables made, those in reserve for huge pages too
    split: int = 0  # entries of huge pages that became 512 each
    linked: int = 0  # PTE tables shared or marked, one entry of the level above each
    copied: int = 0  # pages copied
    zeroed: int = 0  # pages filled with zeroes
    reused: int = 0  # pages made writable again
    faults: int = 0  # traps into the kernel
    waits: int = 0  # times that the caller slept until the child was done

    def __add__(self, other: object) -> Work:
        if not isinstance(other, Work):
            return NotImplemented
        return Work(*(a + b for a, b in zip(self, other, strict=True)))


class Born(NamedTuple):
    """A child, what the caller of fork did for it, and what the child itself does before it runs."""

    child: Process
    caller: Work
    before: Work = Work()


class Strategy(ABC):
    """One way to fork. It keeps what it must know of the processes that it forked; use one for one
    machine."""

    name: ClassVar[str]

    def prepare(self, parent: Process) -> Work:
        """Once, before the first fork."""
        return Work()

    @abstractmethod
    def fork(self, parent: Process) -> Born:
        """Raises CommitRefused, OutOfFrames."""

    def touch(self, process: Process, pages: npt.ArrayLike, write: bool = True) -> Work:
        """An access by a process that this strategy forked or that it was forked from. Raises Segfault,
        OutOfFrames."""
        before = process.space.splits
        work = work_of(process.touch(pages, write))
        return work._replace(split=process.space.splits - before)

    def saved(self) -> int:
        """Pages of page tables that the processes together have fewer than their VmPTE says."""
        return 0


def anonymous(process: Process, vma: Vma) -> PageNumbers:
    """The pages of a mapping that are the process's own or shared since a fork, as indices into it."""
    kind = process.machine.frames.kind
    return np.flatnonzero((vma.frame != NO_FRAME) & (kind[vma.frame] == Kind.ANON))


def work_of(made: Faults) -> Work:
    """What the fault handler did, as work."""
    return Work(copied=made.copied, zeroed=made.zeroed, reused=made.reused, faults=made.minor + made.major)


def forked(parent: Process) -> tuple[Process, Work]:
    """Forks as Linux does: the child, and the work (kernel/fork.c dup_mmap, mm/memory.c copy_page_range)."""
    child = parent.fork()
    return child, Work(**parent.fork_work._asdict())
