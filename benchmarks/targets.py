"""The figures that Clonal is to reach: what is measured, how much at least, and what is aimed at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

UNSTABLE = 0.3  # interquartile range over median


@dataclass(frozen=True)
class Target:
    key: str
    what: str
    at_least: float
    aim: float
    unit: str = "×"
    higher_is_better: bool = False

    def reached(self, value: float, limit: float) -> bool:
        return value >= limit if self.higher_is_better else value <= limit

    def bound(self, limit: float) -> str:
        return f"{'≥' if self.higher_is_better else '≤'} {number(limit)} {self.unit}"


@dataclass
class Figure:
    """A measured row; `value` is None where it could not be measured, and `why` says so."""

    target: Target
    value: float | None
    why: str = ""
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def note(self) -> str:
        found = [str(self.detail.get("note", ""))]
        if self.unstable and "lowest_tenths" in self.detail:
            found.append(f"unstable, of the lowest tenths: {number(self.detail['lowest_tenths'])} ×")
        return "; ".join(filter(None, found))

    @property
    def unstable(self) -> bool:
        return bool(self.detail.get("spread", 0) > UNSTABLE)

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not measured"
        if self.target.reached(self.value, self.target.aim):
            return "aim reached"
        return "reached" if self.target.reached(self.value, self.target.at_least) else "MISSED"

    def to_json(self) -> dict[str, Any]:
        return {
            "key": self.target.key,
            "what": self.target.what,
            "unit": self.target.unit,
            "value": self.value,
            "at_least": self.target.at_least,
            "aim": self.target.aim,
            "higher_is_better": self.target.higher_is_better,
            "verdict": self.verdict,
            "why": self.why,
            "detail": self.detail,
        }


def number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


_ALL = (
    Target("fork", "fork of a 700 MB Python heap, os.fork ÷ image", 30, 80, higher_is_better=True),
    Target("constant", "image clone's fork p50 at 2 GB ÷ at 64 MB", 1.3, 1.05),
    Target("floor-bare", "image clone's fork p50 ÷ a minimal C program's fork: bare Python", 4, 2.5),
    Target("floor-numpy", "image clone's fork p50 ÷ a minimal C program's fork: with numpy", 6, 4),
    Target("per-vma", "image clone's fork p50, per further VMA", 0.8, 0.4, "µs"),
    Target(
        "generation", "fork from a clone that read everything and wrote 1 % ÷ from the fresh template", 3, 1.3
    ),
    Target("rate", "clones per second, 700 MB heap, ÷ os.fork", 25, 60, higher_is_better=True),
    Target("roundtrip", "clone(noop).result() ÷ minimal C fork + pipe round trip", 8, 4),
    Target("standby", "standby round trip ÷ on-demand round trip", 0.5, 0.15),
    Target("private", "private memory after reading every object of a 500 MB heap", 1, 0.1, "%"),
    Target(
        "service", "private memory per request of the example service ÷ os.fork after gc.freeze", 0.25, 0.05
    ),
    Target("read-objects", "time of a clone that reads every object, fork to end, ÷ os.fork child", 0.8, 0.5),
    Target("read-objects-3.11", "the same on CPython 3.11", 1.3, 1.0),
    Target("read-buffers", "raw buffers read in full (a byte of each page), ÷ os.fork child", 0.5, 0.3),
    Target("freeze-huge", "freeze into huge pages, per GB", 0.8, 0.3, "s"),
    Target("freeze-small", "freeze into 4 KiB pages, per GB", 0.6, 0.3, "s"),
    Target("freeze-memory", "extra memory during a freeze", 128, 16, "MB"),
)

TARGETS = {target.key: target for target in _ALL}
