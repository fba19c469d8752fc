"""Which processes belong to what is watched: found anew at each look, cheaply."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from clonal.kernel import procfs
from clonal.observe.family import Member, check, members

RENEW = (
    16  # looks after which all is read again: a number may have been given out anew, a command line changed
)

Stats = dict[int, procfs.Stat]


class Seen(NamedTuple):
    """A process as it was at one look. `root` is the first of its family, `depth` 0 there."""

    member: Member
    stat: procfs.Stat
    root: int
    depth: int


class Watch:
    """The descendants of a process; without one, all families that were forked and that this user may see.

    A descendant stays, wherever it is reparented. Processes that were forked from one another share the
    places of their code and stack, which an exec chooses anew (fs/binfmt_elf.c load_elf_binary).
    """

    def __init__(self, pid: int | None = None) -> None:
        """Raises Unreadable where `pid` may not be looked into."""
        if pid is not None:
            check(pid)
        self.pid = pid
        self._inside: dict[int, int] = {}  # pid: starttime
        self._outside: set[int] = set()
        self._hidden: set[int] = set()
        self._looks = 0
        self._known: dict[tuple[int, int, str], Member] = {}

    @property
    def hidden(self) -> int:
        """Processes that this user may not look into, and that may be families."""
        return len(self._hidden)

    def look(self) -> list[Seen]:
        """Those that are there now, parents before children; neither zombies nor this process itself."""
        stats = self._read()
        families = self._forked(stats) if self.pid is None else [self._below(stats, self.pid)]
        ordered = list(_tree(stats, families))
        self._looks += 1
        found = self._members([stat for stat, _, _ in ordered])
        return [Seen(each, *rest) for each, rest in zip(found, ordered, strict=True)]

    def _read(self) -> Stats:
        if self._looks % RENEW == 0:
            self._outside.clear()
            self._hidden.clear()
        numbers = {int(name) for name in os.listdir("/proc") if name.isdigit()}
        self._outside &= numbers
        self._hidden &= numbers
        found = {}
        for pid in sorted(numbers - self._outside - {os.getpid()}):
            try:
                stat = procfs.stat(pid)
            except (ProcessLookupError, FileNotFoundError, PermissionError):
                continue
            if stat.state not in "ZX":
                found[pid] = stat
        return found

    def _below(self, stats: Stats, root: int) -> Iterable[int]:
        """What was inside and still lives, and what descends from it."""
        if not self._looks and root in stats:
            self._inside[root] = stats[root].starttime
        inside = {pid for pid, born in self._inside.items() if pid in stats and stats[pid].starttime == born}
        for pid in stats:
            chain = []
            at = pid
            while at in stats and at not in inside and at not in self._outside:
                chain.append(at)
                at = stats[at].ppid
            (inside if at in inside else self._outside).update(chain)
        self._inside = {pid: stats[pid].starttime for pid in inside}
        return inside

    def _forked(self, stats: Stats) -> Iterable[Iterable[int]]:
        """Those that share code and stack with another."""
        groups: dict[tuple[int, int], list[int]] = {}
        for pid, stat in stats.items():
            if stat.start_stack:
                groups.setdefault((stat.start_code, stat.start_stack), []).append(pid)
            else:
                self._outside.add(pid)
                if stat.start_code:  # has memory, which may not be looked into
                    self._hidden.add(pid)
        return [group for group in groups.values() if len(group) > 1]

    def _members(self, stats: list[procfs.Stat]) -> list[Member]:
        keys = [(stat.pid, stat.starttime, stat.comm) for stat in stats]
        if list(self._known) != keys or self._looks % RENEW == 0:
            self._known = dict(zip(keys, members(stats), strict=True))
        return list(self._known.values())


def _tree(stats: Stats, families: Iterable[Iterable[int]]) -> Iterator[tuple[procfs.Stat, int, int]]:
    """Each with the first of its family and how far below it is. What has lost its parent hangs on the
    first."""
    for family in families:
        born = sorted(family, key=lambda pid: (stats[pid].starttime, pid))
        inside = set(born)
        children: dict[int, list[int]] = {}
        for pid in born[1:]:
            parent = stats[pid].ppid
            children.setdefault(parent if parent in inside else born[0], []).append(pid)
        todo = [(pid, 0) for pid in born[:1]]
        while todo:
            pid, depth = todo.pop()
            yield stats[pid], born[0], depth
            todo += [(child, depth + 1) for child in reversed(children.get(pid, []))]
