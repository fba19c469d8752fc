"""The benchmark's figures in words, and sizes read from words."""

from __future__ import annotations

import re

from clonal.bench.results import MEASURES, Row
from clonal.errors import Error
from clonal.report.words import duration, size, three

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parse_size(text: str) -> int:
    """Bytes of a size such as 64M or 1.5G."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise Error(f"--sizes: {text!r} is no size; write sizes as 64M,512M,2G")
    return int(float(match[1]) * _UNITS[match[2].upper()])


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
