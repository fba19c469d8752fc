"""One member by kind of memory: its pages are read, with its parent's, which costs more than all else."""

from __future__ import annotations

from dataclasses import dataclass

from clonal.observe.family import Member
from clonal.observe.kinds import MemoryKind
from clonal.observe.sharing import MemberSharing, Method, Usage, snapshot_of
from clonal.observe.table import short

REST = 50  # times as long as it took, until it is done again: 2 % of the time
SOONEST = 5.0  # seconds


@dataclass(frozen=True)
class Drilled:
    """What was found: `parent` is the member it was compared with, if any."""

    sharing: MemberSharing
    parent: int | None
    method: Method
    seconds: float

    @property
    def pause(self) -> float:
        """Seconds until it may be done again."""
        return max(SOONEST, REST * self.seconds)


def drill(member: Member, parent: Member | None) -> Drilled:
    """Reads the pages of a member, and of its parent for what they share and what was copied. The siblings
    are not read: a page that others map too does not count as copied."""
    found = snapshot_of([member] if parent is None else [parent, member], part=True).summary()
    mine = found.members[-1]
    forked = parent is not None and mine.forked
    return Drilled(mine, parent.pid if parent and forked else None, found.method, found.seconds)


def table(found: Drilled) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: a row for each kind, the largest first."""
    by_frames = found.method == "pfn"
    headings = ["kind", "mapped", "alone"]
    if found.parent is not None and by_frames:
        headings += ["parent", "others"]
    else:
        headings += ["shared"]
    headings += ["copied", "swapped", "huge"]
    kinds = sorted(found.sharing.kinds.items(), key=lambda pair: -pair[1].present)
    rows = [_row(str(kind), usage, headings) for kind, usage in kinds if kind in MemoryKind]
    return headings, [*rows, _row("all", found.sharing.total, headings)]


def _row(name: str, usage: Usage, headings: list[str]) -> list[str]:
    shared = usage.shared + (usage.elsewhere or 0)
    figures = {
        "mapped": usage.present,
        "alone": usage.exclusive,
        "parent": usage.shared,
        "others": usage.elsewhere,
        "shared": shared,
        "copied": usage.copied,
        "swapped": usage.swapped,
        "huge": usage.huge,
    }
    return [name, *(short(figures[heading]) for heading in headings[1:])]
