"""Figures in words: the same rounding in the table, the plot and the page."""

from __future__ import annotations

import re

from clonal.bench.results import MEASURES, Row
from clonal.errors import Error

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parse_size(text: str) -> int:
    """Bytes of a size such as 64M or 1.5G."""
    match = re.fullmatch(
        r"(\d+(?:\.\d+)?)([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE
    )
    if match is None:
        raise Error(f"--sizes: {text!r} is no size; write sizes as 64M,512M,2G")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def size(value: float) -> str:
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value >= factor:
            return f"{three(value / factor)} {unit}"
    return f"{value:.0f} B"


def duration(nanoseconds: float) -> str:
    for unit, factor in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if nanoseconds >= factor:
            return f"{three(nanoseconds / factor)} {unit}"
    return f"{nanoseconds:.0f} ns"


def three(value: float) -> str:
    """Three digits are as many as the spread allows."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def quantity(value: float, unit: str) -> str:
    if unit == "ns":
        return duration(value)
    return size(value) if unit == "bytes" else three(value)


def cell(row: Row, name: str) -> str:
    """Median, and the interquartile range in per cent of it where it says something."""
    measure = row.measures.get(name)
    if measure is None:
        return "–"
    spread = (
        f" ±{measure.spread / 2:.0%}"
        if measure.spread >= 0.1 and measure.count > 2
        else ""
    )
    return quantity(measure.median, MEASURES[name][1]) + spread
