"""Memory cgroups: who is charged for a frame, and when a group may have no more (mm/memcontrol.c,
mm/page_counter.c, 6.18)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from clonal.model.errors import BadMachine, GroupFull

Indices = npt.NDArray[np.intp]
BOUNDLESS = 1 << 51  # pages: PAGE_COUNTER_MAX


class Group:
    """A memory cgroup (struct mem_cgroup): at most `limit` pages for its processes and all groups below it.

    `charged` counts frames charged to it or below (page_counter_charge goes up to the root), page tables come
    on top of that. Made by `Machine.group()`.
    """

    def __init__(self, number: int, name: str, limit: int | None, parent: Group | None) -> None:
        if limit is not None and limit < 0:
            raise BadMachine("limit", limit, "0 or more pages, or None")
        self.number, self.name, self.limit, self.parent = number, name, limit, parent
        self.charged = 0
        self.refused = 0  # times that a limit was hit (memory.failcnt)
        self.kills = 0  # processes that the OOM killer took for it (memory.events: oom_kill)

    def upwards(self) -> Iterator[Group]:
        """It and all groups above it."""
        group: Group | None = self
        while group is not None:
            yield group
            group = group.parent

    def within(self, other: Group) -> bool:
        """Whether it is `other` or below it (mem_cgroup_is_descendant)."""
        return any(group is other for group in self.upwards())


class Ledger:
    """Which group is charged for each frame of the machine.

    A frame is charged when it is taken, to the group of the process that touched it: so a page-cache page to
    its first reader, a copy to the writer, and fork charges nothing (mem_cgroup_charge,
    get_mem_cgroup_from_mm). It stays charged there until it is free, wherever the process moves.
    """

    def __init__(self) -> None:
        self.root = Group(0, "/", None, None)
        self.groups = [self.root]
        self.payer = self.root  # of the process whose access is being handled
        self.tables: Callable[[Group], int] = lambda _: 0  # pages of page tables, which a group pays for too
        self.full: Group | None = None  # the one that refused last
        self._of = np.zeros(0, np.int16)  # the number of the group, by frame

    def add(self, name: str, limit: int | None, parent: Group | None) -> Group:
        """A new group, below the root unless said otherwise."""
        group = Group(len(self.groups), name, limit, parent or self.root)
        self.groups.append(group)
        return group

    def admit(self, pages: int, taken: int = 0) -> None:
        """Whether the payer may have `pages`, of which so many are charged. Raises GroupFull with the
        innermost group that may not (try_charge_memcg, page_counter_try_charge)."""
        for group in self.payer.upwards():
            if group.limit is not None:
                charged = group.charged + self.tables(group) - taken
                if charged + pages > group.limit:
                    group.refused += 1
                    self.full = group
                    raise GroupFull(group.name, pages, charged, group.limit)

    def room(self) -> int:
        """How many pages the payer's groups have left."""
        groups = [group for group in self.payer.upwards() if group.limit is not None]
        return min([BOUNDLESS, *(self._left(group) for group in groups)])

    def _left(self, group: Group) -> int:
        assert group.limit is not None
        return group.limit - group.charged - self.tables(group)

    def charge(self, frames: Indices) -> None:
        """Charges frames just taken to the payer. Nothing is counted for the root itself."""
        if self.payer is not self.root and frames.size:
            self._reach(int(np.max(frames)) + 1)
            self._of[frames] = self.payer.number
            self._add(self.payer, frames.size)

    def uncharge(self, frames: Indices) -> None:
        """For frames that become free (uncharge_folio)."""
        if self._of.size:
            known = frames[frames < self._of.size]
            counts = np.bincount(self._of[known])
            for number in np.flatnonzero(counts[1:]) + 1:
                self._add(self.groups[number], -int(counts[number]))
            self._of[known] = 0

    @staticmethod
    def _add(group: Group, pages: int) -> None:
        for each in group.upwards():
            each.charged += pages

    def _reach(self, size: int) -> None:
        if size > self._of.size:
            more = max(size, 2 * self._of.size) - self._of.size
            self._of = np.concatenate([self._of, np.zeros(more, np.int16)])
