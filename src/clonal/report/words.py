"""Quantities in words, with the same rounding wherever they are shown."""

from __future__ import annotations


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
    """Three digits are as many as the spread of a measure allows."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
