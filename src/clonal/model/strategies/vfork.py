"""vfork: the child borrows the caller's memory, and the caller waits."""

from __future__ import annotations

import numpy.typing as npt

from clonal.model.errors import WouldBlock
from clonal.model.process import Process
from clonal.model.strategies.base import Born, Strategy, Work


class Vfork(Strategy):
    """CLONE_VM | CLONE_VFORK: nothing is copied, nothing protected; the calling thread sleeps until the child
    execs or exits (kernel/fork.c wait_for_vfork_done, 6.18)."""

    name = "vfork"

    def __init__(self) -> None:
        self._asleep: dict[int, Process] = {}  # the child by the pid of its parent

    def fork(self, parent: Process) -> Born:
        self._check(parent)
        child = parent.vfork()
        self._asleep[parent.pid] = child
        return Born(child, Work(waits=1))

    def touch(self, process: Process, pages: npt.ArrayLike, write: bool = True) -> Work:
        """Raises WouldBlock for a caller whose child still has its memory."""
        self._check(process)
        return super().touch(process, pages, write)

    def _check(self, process: Process) -> None:
        child = self._asleep.get(process.pid)
        if child is None:
            return
        if child.exit_code is None and child.borrows:
            raise WouldBlock(process.pid, child.pid, "has its memory until it execs or exits")
        del self._asleep[process.pid]
