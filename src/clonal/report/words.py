"""Quantities in words, with the same rounding wherever they are shown, and read from words."""

from __future__ import annotations

import re

from clonal.errors import Error


class BadValue(Error):
    """A value of a command line that cannot be; the message names the option."""


_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str, option: str) -> int:
    """Bytes of a size such as 64M or 1.5G, given to `option`. Raises BadValue."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE | re.ASCII)
    if match is None:
        raise BadValue(f"{option}: {text!r} is no size; write sizes as 64M, 512M, 2G")
    value = float(match[1]) * _UNITS[match[2].upper()]
    if value >= 1 << 63:
        raise BadValue(f"{option}: {text!r} is more than any machine has")
    return int(value)


def size(value: float) -> str:
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value >= factor:
            return f"{three(value / factor)} {unit}"
    return f"{value:.0f} B"


def duration(nanoseconds: float) -> str:
    for unit, factor, least in (
        ("h", 3.6e12, 2),
        ("min", 6e10, 2),
        ("s", 1e9, 1),
        ("ms", 1e6, 1),
        ("µs", 1e3, 1),
    ):
        if nanoseconds >= factor * least:
            return f"{three(nanoseconds / factor)} {unit}"
    return f"{nanoseconds:.0f} ns"


def three(value: float) -> str:
    """Three digits are as many as the spread of a measure allows."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def share(value: float) -> str:
    """A share of a whole: `5 %`, `0.25 %`."""
    return f"{value * 100:.3g} %"


def parse_share(text: str, option: str) -> float:
    """A share such as 5%, 0.5% or 0.05, given to `option`. Raises BadValue."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+) ?(%?)", text.strip(), re.ASCII)
    value = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    if not 0 <= value <= 1:
        raise BadValue(f"{option}: {text!r} is no share; write it as 5% or 0.05")
    return value


_TIMES = {
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}


def parse_time(text: str, option: str) -> float:
    """Seconds of a time such as 200ms, 30s, 5m, 2h, given to `option`. Raises BadValue."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(us|µs|ms|s|min|m|h|d|)", text.strip(), re.ASCII | re.IGNORECASE)
    if match is None:
        raise BadValue(f"{option}: {text!r} is no time; write it as 200ms, 30s, 5m or 2h")
    return float(match[1]) * _TIMES[match[2].lower()]


def printable(text: str) -> str:
    """Without what would disturb a terminal: names of functions, files and processes may hold anything."""
    return "".join(each if each.isprintable() else "?" for each in text)
