"""A family's sharing in tables for a terminal: as many columns as there is room for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from clonal.observe.kinds import MemoryKind
from clonal.observe.sharing import FamilySharing, MemberSharing, Usage

MOST_ROWS = 30
MOST_SETS = 8
MOST_IN_MATRIX = 8
COLUMN = 9  # letters of a figure, with the space before it
SHORT = {
    MemoryKind.OBJECTS: "objects",
    MemoryKind.MALLOC: "malloc",
    MemoryKind.BUFFERS: "buffers",
    MemoryKind.DATA: "data",
    MemoryKind.CACHE: "cache",
    MemoryKind.SHARED: "shm",
}


@dataclass(frozen=True)
class Part:
    """A table with its heading."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def short(size: int | None) -> str:
    """At most five letters: 0, 640K, 3.2M, 12M, 1.4G; — where it is not known."""
    if size is None:
        return "—"
    for unit, factor in (("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20)):
        if size >= 0.9995 * factor:
            value = size / factor
            digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
            return f"{value:.{digits}f}{unit}"
    return f"{size / 1024:.0f}K" if size else "0"


def headline(family: FamilySharing) -> list[str]:
    """What it is of, what it takes, and how that is known."""
    first, count = family.members[0], len(family.members)
    what = first.member.title
    who = what if count == 1 else f"{what} and {count - 1} more"
    mapped = short(family.total.present)
    if family.distinct is not None:
        takes = f"take {short(sum(family.distinct.values()))}, each frame counted once"
        how = "By page frames (pfn)"
    else:
        takes = f"take about {short(sum(each.pss for each in family.members))}, the sum of their PSS"
        how = "By the exclusive bit of each page"
    lines = [f"{who}: {mapped} mapped and in memory; {takes}.", f"{how}, in {family.seconds * 1e3:.0f} ms."]
    return [*lines, *(f"{each[0].upper()}{each[1:]}." for each in family.lost)]


def tables(family: FamilySharing, width: int) -> Iterator[Part]:
    """All tables that say something of this family."""
    yield members(family, width)
    yield kinds(family, width)
    if len(family.members) > 1:
        for title, value in (("Alone, by kind", _exclusive), ("Copied since the fork, by kind", _copied)):
            part = pivot(family, title, value, width)
            if part.rows:
                yield part
    if family.matrix is not None and 1 < len(family.members) <= min(MOST_IN_MATRIX, width // COLUMN - 1):
        yield matrix(family)
    if family.sharers is not None and len(family.members) > 1:
        yield sharers(family)
    if any(each.nodes for each in family.members):
        yield nodes(family)


def _exclusive(usage: Usage) -> int | None:
    return usage.exclusive


def _copied(usage: Usage) -> int | None:
    return usage.copied


OPTIONAL = frozenset({"swapped", "huge", "outside", "zero"})  # columns left out where all are 0
Columns = dict[str, Sequence[int | None]]  # by heading, the most important first


def members(family: FamilySharing, width: int) -> Part:
    """A row for each process, children below their parents."""

    def each(value: Callable[[MemberSharing], int | None]) -> Sequence[int | None]:
        return [value(member) if member.known else None for member in family.members]

    columns: Columns = {
        "RSS": each(lambda member: member.rss),
        "shared": each(lambda member: member.total.shared),
        "alone": each(lambda member: member.total.exclusive),
        "copied": each(lambda member: member.total.copied),
        "PSS": each(lambda member: member.pss),
        "swapped": each(lambda member: member.total.swapped),
        "huge": each(lambda member: member.total.huge),
        "tables": each(lambda member: member.page_tables),
        "outside": each(lambda member: member.total.elsewhere),
        "USS": each(lambda member: member.uss),
        "zero": each(lambda member: member.total.zero),
    }
    return _part("Members", "process", list(_tree(family)), columns, width)


def _part(title: str, first: str, labels: Sequence[str], columns: Columns, width: int) -> Part:
    """A table of as many columns as fit."""
    room = (width - max(map(len, labels), default=0)) // COLUMN
    used = [heading for heading, values in columns.items() if heading not in OPTIONAL or any(values)]
    shown = used[: max(room, 4)]
    rows = [[label, *(short(columns[heading][at]) for heading in shown)] for at, label in enumerate(labels)]
    return Part(title, [first, *shown], _cut(rows, len(shown)))


def _tree(family: FamilySharing) -> Iterator[str]:
    depths: dict[int, int] = {}
    for each in family.members:
        depth = depths[each.pid] = depths.get(each.member.ppid, -1) + 1
        name = each.member.name if each.member.role == "process" else each.member.role
        yield f"{' ' * max(0, min(depth, 6) - 1)}{'└' if depth else ''}{each.pid} {name}"[:24]


def _cut(rows: list[list[str]], columns: int) -> list[list[str]]:
    if len(rows) <= MOST_ROWS:
        return rows
    return [*rows[:MOST_ROWS], [f"… {len(rows) - MOST_ROWS} more (--json)", *[""] * columns]]


def kinds(family: FamilySharing, width: int) -> Part:
    """A row for each kind of memory, summed over the family."""
    totals = {
        kind: each for kind, each in family.by_kind().items() if each.present or each.swapped or each.zero
    }
    every = list(totals.values())
    taken: Columns = {}
    if family.distinct is not None:
        taken = {"distinct": [family.distinct[kind] for kind in totals]}
    columns: Columns = {
        "mapped": [each.present for each in every],
        **taken,
        "shared": [each.shared for each in every],
        "alone": [each.exclusive for each in every],
        "copied": [each.copied for each in every],
        "swapped": [each.swapped for each in every],
        "huge": [each.huge for each in every],
        "outside": [each.elsewhere for each in every],
        "zero": [each.zero for each in every],
    }
    return _part("Kinds of memory", "kind", [str(kind) for kind in totals], columns, width)


def pivot(family: FamilySharing, title: str, value: Callable[[Usage], int | None], width: int) -> Part:
    """One figure of each member by kind. Kinds in which it is 0 everywhere are left out; those that do not
    fit, the smallest, are one column."""
    sizes = {kind: size for kind, usage in family.by_kind().items() if (size := value(usage))}
    room = max(width // (COLUMN + 1) - 1, 2)
    largest = sorted(sizes, key=lambda kind: -sizes[kind])[: room if len(sizes) <= room else room - 1]
    used, rest = [kind for kind in sizes if kind in largest], [kind for kind in sizes if kind not in largest]
    heads = [SHORT.get(kind, str(kind)) for kind in used] + ["the rest"] * bool(rest)
    rows = []
    for each in family.members:
        if each.known and value(each.total) is not None:
            figures = {kind: value(usage) or 0 for kind, usage in each.kinds.items()}
            told = [figures.get(kind, 0) for kind in used] + [sum(figures.get(k, 0) for k in rest)] * bool(
                rest
            )
            rows.append([str(each.pid), *map(short, told)])
    return Part(title, ["pid", *heads], _cut(rows, len(heads)) if heads else [])


def matrix(family: FamilySharing) -> Part:
    """What each two members share."""
    assert family.matrix is not None
    pids = [str(each.pid) for each in family.members]
    rows = [
        [pid, *("" if at == number else short(size) for at, size in enumerate(row))]
        for number, (pid, row) in enumerate(zip(pids, family.matrix, strict=True))
    ]
    return Part("Shared with", ["pid", *pids], rows)


def sharers(family: FamilySharing) -> Part:
    """The largest sets of pages by the exact set of processes that map them."""
    assert family.sharers is not None
    sets = [(pids, size) for pids, size in family.sharers if len(pids) > 1]
    everybody = [each.pid for each in family.members]
    rows = [[_set(pids, everybody), short(size)] for pids, size in sets[:MOST_SETS]]
    if len(sets) > MOST_SETS:
        rest = sum(size for _, size in sets[MOST_SETS:])
        rows.append([f"{len(sets) - MOST_SETS:,} other sets of processes", short(rest)])
    return Part("Shared by exactly", ["processes", "memory"], rows)


def _set(pids: Sequence[int], everybody: Sequence[int]) -> str:
    if len(pids) == len(everybody):
        return f"all {len(pids)}"
    if len(pids) == len(everybody) - 1 and len(pids) > 2:
        return f"all but {next(pid for pid in everybody if pid not in pids)}"
    if len(pids) <= 6:
        return ", ".join(map(str, pids))
    return f"{pids[0]}, {pids[1]}, {pids[2]}, … {pids[-1]} ({len(pids)})"


def nodes(family: FamilySharing) -> Part:
    """Memory of each member by NUMA node."""
    every = sorted({node for each in family.members for node in each.nodes})
    known = [each for each in family.members if each.known]
    rows = [[str(each.pid), *(short(each.nodes.get(node, 0)) for node in every)] for each in known]
    return Part("By node", ["pid", *(f"node {node}" for node in every)], _cut(rows, len(every)))
