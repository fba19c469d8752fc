"""What the audit answers with: one hazard, its evidence, its remedy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

Severity = Literal["danger", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("danger", "warning", "note")
SHOWN = 5  # how many examples one line of evidence lists


@dataclass(frozen=True)
class Hazard:
    """Something about this process that a fork would break or share.

    severity: "danger" — a clone may hang, crash or corrupt data; "warning" — clones share what
    they may not expect to; "note" — taken care of by the library or by Clonal, said for the record.
    """

    name: str
    severity: Severity
    evidence: str
    remedy: str

    def to_json(self) -> dict[str, str]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.severity}: {self.name}: {self.evidence}\n    {self.remedy}"


def rank(hazard: Hazard) -> int:
    """Sort key: the worst first."""
    return SEVERITIES.index(hazard.severity)


def listed(items: Iterable[str], shown: int = SHOWN) -> str:
    """The first few items and how many more there are: "a; b; and 3 more"."""
    every = list(items)
    text = "; ".join(every[:shown])
    return text if len(every) <= shown else f"{text}; and {len(every) - shown} more"


def counted(number: int, noun: str) -> str:
    """ "1 thread", "2 threads"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
