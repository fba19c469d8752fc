"""Async-fork: the child copies the page tables while the caller goes on (Pang et al., PVLDB 16(5), 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clonal.model.process import Process
from clonal.model.space import AddressSpace
from clonal.model.strategies.base import Born, Strategy, Work, forked
from clonal.model.strategies.regions import changed_tables, copied_tables


@dataclass
class Owed:
    """What a child has still to copy: the entries of each table of `source` that is marked."""

    source: AddressSpace
    child: Process
    entries: dict[int, int]


class AsyncCopy(Strategy):
    """Fork only marks the caller's PTE tables as not copied yet. The child copies them before it runs. Where
    the caller changes an entry in one that is still marked it copies that table itself first ("proactive
    synchronization"). So the caller's fork is short, and the child starts as late as ever."""

    name = "async_copy"

    def __init__(self) -> None:
        self._owed: list[Owed] = []

    def fork(self, parent: Process) -> Born:
        """The child's work before it runs is what `settle` has to do if the caller changes nothing
        meanwhile."""
        work = self._pay(self._of(parent))  # fork changes all entries, so an earlier child needs them first
        counts = copied_tables(parent)
        child, done = forked(parent)
        self._owed.append(Owed(parent.space, child, counts))
        before = Work(entries=sum(counts.values()), tables=len(counts))
        done = done._replace(entries=0, tables=done.huge, linked=len(counts))
        return Born(child, work + done, before)

    def settle(self, child: Process, tables: int | None = None) -> Work:
        """The child copies so many tables, by default all that are left."""
        mine = [owed for owed in self._owed if owed.child is child]
        return self._pay(mine, {number for owed in mine for number in sorted(owed.entries)[:tables]})

    def touch(self, process: Process, pages: npt.ArrayLike, write: bool = True) -> Work:
        """By the child: after it has copied what is left."""
        numbers = np.asarray(pages, np.int64)
        work = self.settle(process)
        work += self._pay(self._of(process), changed_tables(process, numbers, write))
        return work + super().touch(process, numbers, write)

    def _of(self, parent: Process) -> list[Owed]:
        """What is still to be copied of its tables, for children that live."""
        self._owed = [owed for owed in self._owed if owed.entries and owed.child.exit_code is None]
        return [owed for owed in self._owed if owed.source is parent.space]

    @staticmethod
    def _pay(debts: list[Owed], numbers: set[int] | None = None) -> Work:
        """Copies these tables, by default all."""
        work = Work()
        for owed in debts:
            wanted = owed.entries.keys() if numbers is None else numbers & owed.entries.keys()
            counts = [owed.entries.pop(number) for number in list(wanted)]
            work += Work(entries=sum(counts), tables=len(counts))
        return work
