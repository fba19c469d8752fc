"""What a benchmark found, as data: `Results.to_json()` is the file format."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from clonal.bench.statistics import Measure

SCHEMA = 1

# name -> (column title, unit); the order is that of the table
MEASURES: dict[str, tuple[str, str]] = {
    "stall": ("caller's stall", "ns"),
    "first": ("first instruction", "ns"),
    "result": ("first useful result", "ns"),
    "read_all": ("read all", "ns"),
    "write_5": ("write 5 %", "ns"),
    "write_all": ("write all", "ns"),
    "private": ("private after reading", "bytes"),
    "teardown": ("teardown", "ns"),
    "rate": ("clones/s", "per second"),
    "page_tables": ("page tables after reading", "bytes"),
    "read_total": ("read all, call to reaped", "ns"),
    "write_total": ("write all, call to reaped", "ns"),
    "teardown_idle": ("teardown of a child that did nothing", "ns"),
    "faults_idle": ("faults of a child that did nothing", "faults"),
    "faults_read": ("faults of a child that read all", "faults"),
}
TABLE = (
    "stall",
    "first",
    "result",
    "read_all",
    "write_5",
    "write_all",
    "private",
    "teardown",
    "rate",
)


@dataclass
class Row:
    """One strategy at one heap size (0: the size does not matter to it)."""

    strategy: str
    title: str
    size: int
    thp: str
    what: str
    measures: dict[str, Measure]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Skipped:
    strategy: str
    size: int
    reason: str


@dataclass
class Storm:
    """`children` children write the same `bytes` at once, in nanoseconds.

    `slowest` is from the release to the end of the last, `total` includes forking and preparing:
    a mitigation that only moves the cost shows there.
    """

    mitigation: str
    strategy: str
    children: int
    bytes: int
    slowest: Measure
    total: Measure


@dataclass
class BreakEven:
    """Time from the call until the child was reaped, over the share of pages that it writes."""

    strategy: str
    size: int
    shares: list[float]
    plain: list[float]
    mine: list[float]
    share: float | None  # above this written share os.fork is faster; None: at no share measured


@dataclass
class Results:
    machine: dict[str, Any]
    settings: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    storms: list[Storm] = field(default_factory=list)
    break_even: list[BreakEven] = field(default_factory=list)
    article: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        units = {name: {"title": title, "unit": unit} for name, (title, unit) in MEASURES.items()}
        return {"schema": SCHEMA, "measures": units, **asdict(self)}

    def row(self, strategy: str, size: int) -> Row | None:
        return next(
            (row for row in self.rows if (row.strategy, row.size) == (strategy, size)),
            None,
        )

    def sizes(self) -> list[int]:
        return sorted({row.size for row in self.rows if row.size})


def instability(results: Results) -> list[str]:
    """Warnings about rows that jump about, and what to run next."""
    shaky = [
        (measure.spread, row, name)
        for row in results.rows
        for name, measure in row.measures.items()
        if name in TABLE and measure.unstable
    ]
    if not shaky:
        return []
    spread, row, name = max(shaky, key=lambda item: item[0])
    rounds = results.settings["rounds"]
    where = f" at {row.size >> 20} MiB" if row.size else ""
    warning = (
        f"{len(shaky)} measures are unstable; the worst: {row.title}{where}, "
        f"{MEASURES[name][0]}, interquartile range {spread:.0%} of the median. "
        f"Stop other work on this machine and run again with --rounds {rounds * 3}."
    )
    return [warning]
