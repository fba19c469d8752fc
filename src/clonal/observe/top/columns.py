"""The columns of `clonal top`: what stands in them, how wide, in which order they sort."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

from clonal.observe.family import Member, shortened
from clonal.observe.table import short
from clonal.observe.top.sampler import Row, Sample

UNKNOWN = "—"


def rate(value: float | None) -> str:
    """At most five letters: 0, 0.3, 12, 950, 1.2k, 37k, 1.4M."""
    if value is None:
        return UNKNOWN
    if value < 0.05:
        return "0"
    for unit, factor in (("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * factor:
            return _two(value / factor) + unit
    return _two(value)


def _two(value: float) -> str:
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def growth(value: float | None) -> str:
    """Bytes per second, with a sign."""
    if value is None:
        return UNKNOWN
    size = round(abs(value))
    return "0" if size < 512 else ("+" if value > 0 else "−") + short(size)


def score(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.0f}"


def size(value: float | None) -> str:
    return short(None if value is None else round(value))


@dataclass(frozen=True)
class Column:
    """`name` is the field of Row; `width` counts the space before it; `adds`: its sum over members says
    something."""

    name: str
    heading: str
    width: int
    text: Callable[[float | None], str]
    meaning: str
    adds: bool = True


COLUMNS: Sequence[Column] = (
    Column("rss", "RSS", 6, size, "resident memory"),
    Column("shared", "shared", 7, size, "of it what other processes map too"),
    Column("private", "private", 8, size, "of it what this process maps alone"),
    Column("growth", "grow/s", 7, growth, "growth of private memory, bytes a second"),
    Column("minor", "min/s", 6, rate, "minor faults a second"),
    Column("major", "maj/s", 6, rate, "major faults a second: waits for a disk"),
    Column("copies", "copy/s", 7, rate, "pages a second that were copied, not added"),
    Column("pss", "PSS", 6, size, "private, and its part of what is shared"),
    Column("oom_score", "oom", 5, score, "badness: the highest is killed first", adds=False),
)
FIGURES = sum(column.width for column in COLUMNS)


def label(row: Row, width: int, tree: bool) -> str:
    """Who it is, exactly so wide: with the command line where there is room."""
    branch = " " * min(row.depth - 1, 4) + "└" if tree and row.depth else ""
    name = row.member.name if row.member.role == "process" else row.member.role
    text = f"{branch}{row.pid} {name}"
    command = _besides(row.member)
    if command and width - cell_len(text) >= 12:
        text += f" {command}"
    return set_cell_size(text, width) if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"


def _besides(member: Member) -> str:
    """What else tells one from others: of a template the program that made it."""
    if member.role != "process":
        return f"of {shortened(member.of, 200)}" if member.of else ""
    first, _, rest = member.command.partition(" ")
    return rest if first.rpartition("/")[2] == member.name else member.command


def cells(row: Row) -> list[str]:
    return [column.text(getattr(row, column.name)) for column in COLUMNS]


def totals(sample: Sample) -> list[str]:
    """Sums over the members. RSS and shared memory count several times what several map."""
    return [column.text(sample.total(column.name)) if column.adds else "" for column in COLUMNS]


def ordered(rows: Sequence[Row], column: int | None, descending: bool) -> list[Row]:
    """By a column; None: parents before children, as sampled. What is not known comes last."""
    if column is None:
        return list(rows)
    name = COLUMNS[column].name
    known = [row for row in rows if getattr(row, name) is not None]
    known.sort(key=lambda row: getattr(row, name), reverse=descending)
    return known + [row for row in rows if getattr(row, name) is None]


def matches(row: Row, words: str) -> bool:
    """Whether all words occur in what is known of the process."""
    member = row.member
    text = f"{member.pid} {member.name} {member.role} {member.command} {member.of}".lower()
    return all(word in text for word in words.lower().split())
