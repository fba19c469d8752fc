"""On-demand-fork: copy-on-write of the page tables themselves (Zhao, Gong, Fonseca, EuroSys '21)."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from clonal.model.process import Process
from clonal.model.space import AddressSpace
from clonal.model.strategies.base import Born, Strategy, Work, forked
from clonal.model.strategies.regions import changed_tables, copied_tables


class Shared:
    """A PTE table that several address spaces have: `entries` are copied by each but the last to change
    one."""

    def __init__(self, entries: int, first: AddressSpace) -> None:
        self.entries = entries
        self._users = [first]

    def add(self, space: AddressSpace) -> None:
        """One more has it."""
        self._users.append(space)

    def leave(self, space: AddressSpace) -> int:
        """One no longer has it; how many entries it copied."""
        entries = self.entries if self.alive() > 1 else 0
        self._users.remove(space)
        return entries

    def alive(self) -> int:
        """How many have it that have not come to their end."""
        self._users = [space for space in self._users if space.users]
        return len(self._users)


class SharedTables(Strategy):
    """Fork links the PTE tables instead of copying their entries, and protects them a level higher. The first
    change in one, by either side, copies that one table; its last user takes it over. Pages are then copied
    as ever. So all entries of a table are paid for by the first fault in it, and never where nobody
    writes."""

    name = "shared_tables"

    def __init__(self) -> None:
        self._of: WeakKeyDictionary[AddressSpace, dict[int, Shared]] = WeakKeyDictionary()  # by table number

    def fork(self, parent: Process) -> Born:
        counts = copied_tables(parent)
        child, work = forked(parent)
        mine, its = self._of.setdefault(parent.space, {}), self._of.setdefault(child.space, {})
        for number, entries in counts.items():
            if number not in mine or mine[number].alive() < 2:
                mine[number] = Shared(entries, parent.space)
            mine[number].add(child.space)
            its[number] = mine[number]
        return Born(child, work._replace(entries=0, tables=work.huge, linked=len(counts)))

    def touch(self, process: Process, pages: npt.ArrayLike, write: bool = True) -> Work:
        numbers = np.asarray(pages, np.int64)
        mine = self._of.get(process.space, {})
        changed = changed_tables(process, numbers, write) & mine.keys()
        work = super().touch(process, numbers, write)
        copies = [mine.pop(number).leave(process.space) for number in changed]
        return work + Work(entries=sum(copies), tables=sum(entries > 0 for entries in copies))

    def saved(self) -> int:
        tables = {id(table): table for mine in self._of.values() for table in mine.values()}
        return sum(max(table.alive() - 1, 0) for table in tables.values())
