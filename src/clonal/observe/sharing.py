"""Who of a family shares which memory with whom, at this moment: `clonal.sharing(pid)`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from clonal.kernel.procfs import PAGE
from clonal.observe import frames
from clonal.observe.family import Member, family
from clonal.observe.frames import Counted
from clonal.observe.kinds import KINDS, MemoryKind
from clonal.observe.pages import frames_shown, zero_frames
from clonal.observe.reading import Common, Reading, read

Method = Literal["pfn", "exclusive bit"]
LOST = (
    "the kernel shows frames to CAP_SYS_ADMIN only (run as root): with whom a page is shared, what is shared "
    "outside the family, and the memory that the family takes are not known",
    "a page copied and then shared with a child of its own does not count as copied",
)
BY_SIZE = (
    "this process may not read the memory of others (ptrace_scope?): Python objects are told from large "
    "buffers by size and alignment, not by the headers of their pools"
)


@dataclass(frozen=True)
class Usage:
    """Bytes of one kind of memory in one member, or sums of them. Each byte that is `present` is `exclusive`
    (this process alone maps it), `shared` (with other members; by the exclusive bit: with any process) or
    `elsewhere` (with processes outside the family only; None where frames are not shown). `copied`: since
    the fork from its parent; None for one that was not forked from a member. `zero`: mapped to the zero
    page, which is no memory and not `present`."""

    present: int = 0
    shared: int = 0
    elsewhere: int | None = 0
    exclusive: int = 0
    copied: int | None = 0
    swapped: int = 0
    huge: int = 0
    zero: int = 0


@dataclass(frozen=True)
class MemberSharing:
    """One member; sizes in bytes. `rss`, `pss` and `uss` are the kernel's figures (smaps), `nodes` is empty
    on a machine of one node. `problem` says why figures are missing, "" if none are; where not `known`, all
    are, and what is 0 here is no figure."""

    member: Member
    kinds: dict[MemoryKind, Usage]
    total: Usage
    rss: int
    pss: int
    uss: int
    page_tables: int
    nodes: dict[int, int]
    objects_by: str
    forked: bool
    problem: str = ""
    known: bool = True

    @property
    def pid(self) -> int:
        return self.member.pid


@dataclass(frozen=True)
class FamilySharing:
    """The family: `members` parents first. `distinct`: bytes that the family takes, each frame once.
    `matrix[a][b]`: bytes that members a and b both map (a with itself: all that it maps). `sharers`: bytes by
    the exact set of pids that map them, largest first. These three are None where frames are not shown;
    `lost` says so."""

    method: Method
    members: list[MemberSharing]
    distinct: dict[MemoryKind, int] | None
    matrix: list[list[int]] | None
    sharers: list[tuple[tuple[int, ...], int]] | None
    lost: list[str]
    seconds: float
    parents: list[int | None] = field(default_factory=list)

    @property
    def total(self) -> Usage:
        """Sums over the members: what several map counts several times."""
        return added(each.total for each in self.members)

    def by_kind(self) -> dict[MemoryKind, Usage]:
        """The same by kind."""
        return {
            kind: added(each.kinds[kind] for each in self.members if kind in each.kinds) for kind in KINDS
        }

    @property
    def problems(self) -> list[str]:
        """What is missing, a line for each member concerned."""
        return [
            f"process {each.pid} ({each.member.name}) {each.problem}" for each in self.members if each.problem
        ]

    def to_json(self) -> dict[str, Any]:
        """What `clonal map --json` prints; see docs/map.md."""
        return {
            "method": self.method,
            "lost": self.lost,
            "problems": self.problems,
            "seconds": round(self.seconds, 4),
            "page_size": PAGE,
            "members": [_member_json(each) for each in self.members],
            "total": asdict(self.total),
            "distinct": self.distinct and {str(kind): size for kind, size in self.distinct.items()},
            "matrix": self.matrix,
            "sharers": self.sharers and [{"pids": list(pids), "bytes": size} for pids, size in self.sharers],
        }


def _member_json(each: MemberSharing) -> dict[str, Any]:
    sizes = ("rss", "pss", "uss", "page_tables")
    return asdict(each.member) | {
        **{name: getattr(each, name) if each.known else None for name in sizes},
        **{name: getattr(each, name) for name in ("objects_by", "forked", "problem")},
        "nodes": {str(node): size for node, size in each.nodes.items()},
        "total": asdict(each.total) if each.known else None,
        "kinds": {str(kind): asdict(usage) for kind, usage in each.kinds.items()},
    }


def added(usages: Iterable[Usage]) -> Usage:
    """Sums, field by field; None where no summand is known."""
    rows = [asdict(usage) for usage in usages]

    def total(name: str) -> int | None:
        known = [row[name] for row in rows if row[name] is not None]
        return sum(known) if known or not rows else None

    return Usage(**{name: total(name) for name in asdict(Usage())})  # type: ignore[arg-type]


@dataclass
class Snapshot:
    """All that was read, page by page: what FamilySharing sums up and the page map draws."""

    readings: list[Reading]
    parents: list[int | None]
    counted: Counted
    shown: bool
    seconds: float

    def summary(self) -> FamilySharing:
        return _summary(self)


def sharing(pid: int, *more: int) -> FamilySharing:
    """Who shares which pages with whom, now: of these processes and all that descend from them.

    By the frames of their pages where the kernel shows them (CAP_SYS_ADMIN), else by the bit that says that
    a page is one process's alone; `method` says which, `lost` what is not known then. Raises Error for a
    process that is not there or may not be read; a member that ends meanwhile stays, with a `problem`.
    """
    return snapshot((pid, *more)).summary()


def snapshot(pids: Iterable[int], without: Iterable[int] = (), index: bool = False) -> Snapshot:
    """Reads the family. `without` leaves processes out, `index` keeps what tells the sharers of each page."""
    return snapshot_of(family(pids, without)[: frames.MOST_MEMBERS], index)


def snapshot_of(members: Sequence[Member], index: bool = False, part: bool = False) -> Snapshot:
    """Reads these members, parents first. `part`: they are not all of their family."""
    begun = time.perf_counter()
    shown = frames_shown()
    readings = _read_all(members, shown)
    at = {member.pid: number for number, member in enumerate(members)}
    forked = [_forked_from(each, readings, at.get(each.member.ppid)) for each in readings]
    counted = frames.count(readings, forked, shown, index, part)
    return Snapshot(readings, forked, counted, shown, time.perf_counter() - begun)


def _forked_from(each: Reading, readings: Sequence[Reading], parent: int | None) -> int | None:
    """The parent, unless the process has executed another program since."""
    if parent is None or each.address_space is None:
        return None
    return parent if readings[parent].address_space == each.address_space else None


def _read_all(members: Sequence[Member], shown: bool) -> list[Reading]:
    """All members, some at a time: the kernel's work is done without the interpreter's lock. A generation
    after the other, since a child's mappings are known from its parent's."""
    zero = zero_frames() if shown else None
    common = Common()
    done: dict[int, Reading] = {}
    left = list(members)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        while left:
            waiting = {member.pid for member in left}
            ready = [member for member in left if member.ppid not in waiting]
            jobs = [pool.submit(read, each, zero, common, done.get(each.ppid)) for each in ready]
            done.update((job.result().member.pid, job.result()) for job in jobs)
            left = [member for member in left if member.pid not in done]
    return [done[member.pid] for member in members]


def _summary(taken: Snapshot) -> FamilySharing:
    counted, readings = taken.counted, taken.readings
    pids = [each.member.pid for each in readings]
    has_children = {parent for parent in taken.parents if parent is not None}
    members = [
        _member(counted, number, each, taken.parents[number], number in has_children and taken.shown)
        for number, each in enumerate(readings)
    ]
    lost = [] if taken.shown else list(LOST)
    if any(each.objects_by == "size and alignment" for each in readings):
        lost.append(BY_SIZE)
    distinct, matrix, sharers = counted.distinct, counted.matrix, counted.sharers
    return FamilySharing(
        method="pfn" if taken.shown else "exclusive bit",
        members=members,
        distinct=None if distinct is None else {k: int(distinct[at]) * PAGE for at, k in enumerate(KINDS)},
        matrix=None if matrix is None else (matrix * PAGE).tolist(),
        sharers=None
        if sharers is None
        else [(tuple(pids[at] for at in each.members), each.pages * PAGE) for each in sharers],
        lost=lost,
        seconds=taken.seconds,
        parents=taken.parents,
    )


def _member(
    counted: Counted, number: int, each: Reading, parent: int | None, has_children: bool
) -> MemberSharing:
    copies = parent is not None or has_children

    def usage(kind: int) -> Usage:
        figures = {
            name: None if (table := getattr(counted, name)) is None else int(table[number, kind]) * PAGE
            for name in asdict(Usage())
        }
        return Usage(**figures | ({} if copies else {"copied": None}))  # type: ignore[arg-type]

    kinds = {kind: usage(at) for at, kind in enumerate(KINDS)}
    sizes = [entry.sizes for entry in each.entries]

    def summed(*names: str) -> int:
        return sum(size.get(name, 0) for size in sizes for name in names)

    return MemberSharing(
        member=each.member,
        kinds={kind: usage for kind, usage in kinds.items() if usage.present or usage.swapped or usage.zero},
        total=added(kinds.values()),
        rss=summed("Rss"),
        pss=summed("Pss"),
        uss=summed("Private_Clean", "Private_Dirty"),
        page_tables=0 if each.status is None else each.status.size("VmPTE"),
        nodes=each.nodes,
        objects_by=each.objects_by,
        forked=parent is not None,
        problem=each.problem,
        known=bool(each.entries),
    )
