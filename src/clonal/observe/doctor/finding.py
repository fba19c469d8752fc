"""A finding: what is wrong, how one knows, what to write where, and what that is predicted to save."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

MIB = 1 << 20
WORTH = 2 * MIB  # bytes saved for each forked process, on average, that are worth a line
NAMES = {
    "reference-counts": "objects are copied because they are looked at",
    "gc-headers": "objects are copied because the collector visits them",
    "allocator": "pages are copied because blocks in them are freed and given out again",
    "imports": "modules are imported after the fork, by each process for itself",
    "exec": "a large process forks only to execute another program",
    "shared-tables": "several processes write to their own copy of the same table",
    "objects-copied": "Python objects were copied since the fork; why, only a recording tells",
    "threads": "the process had other threads when it forked",
    "overcommit": "the kernel may refuse a fork",
    "oom-score": "where memory ends the parent is killed, not a child",
    "cgroup": "the memory limit of the control group is near",
    "swap": "memory of the family is swapped out",
    "page-tables": "page tables take much memory",
    "small-pages": "a large memory is in small pages, and fork copies an entry for each",
    "split-pages": "children split huge pages by small writes",
    "collapsed-pages": "huge pages are made of what was shared, one for each process",
    "numa": "processes run on one node, their memory is on another",
    "mappings": "the process is near vm.max_map_count",
    "descriptors": "children keep descriptors that only the parent needs",
}


def forked(count: int) -> str:
    """`1 forked process`, `2 forked processes`."""
    return f"{count:,} forked process" + ("" if count == 1 else "es")


class Fact(NamedTuple):
    """A figure, and where it was read."""

    text: str
    source: str


class Remedy(NamedTuple):
    """Lines, and the place they belong to."""

    where: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """`gain` in bytes: memory that is not copied any more; None where the gain is not memory, and `instead`
    says what it is. `also`: names of other findings that the same lines mend; they are in the gain."""

    name: str
    evidence: tuple[Fact, ...]
    remedy: Remedy
    gain: int | None = None
    instead: str = ""
    also: tuple[str, ...] = ()

    @property
    def names(self) -> set[str]:
        return {self.name, *self.also}

    @property
    def what(self) -> str:
        return NAMES[self.name]

    def to_json(self) -> dict[str, Any]:
        """What `clonal doctor --json` prints of it; see docs/doctor.md."""
        return {
            "finding": self.name,
            "what": self.what,
            "also": list(self.also),
            "evidence": [fact._asdict() for fact in self.evidence],
            "remedy": {"where": self.remedy.where, "lines": list(self.remedy.lines)},
            "gain_bytes": self.gain,
            "gain": self.instead,
        }


def ranked(findings: Iterable[Finding]) -> list[Finding]:
    """By the bytes saved; those that save none in the order of NAMES."""
    order = list(NAMES)
    return sorted(findings, key=lambda each: (-(each.gain or 0), order.index(each.name)))
