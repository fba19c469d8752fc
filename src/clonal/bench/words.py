"""The benchmark's figures in words."""

from __future__ import annotations

from clonal.bench.results import MEASURES, Row
from clonal.report.words import duration, size, three


def quantity(value: float, unit: str) -> str:
    if unit == "ns":
        return duration(value)
    return size(value) if unit == "bytes" else three(value)


def cell(row: Row, name: str) -> str:
    """Median, and half the interquartile range in per cent of it where it says something."""
    measure = row.measures.get(name)
    if measure is None:
        return "–"
    spread = f" ±{measure.spread / 2:.0%}" if measure.spread >= 0.1 and measure.count > 2 else ""
    return quantity(measure.median, MEASURES[name][1]) + spread
