"""Tables and units for a terminal: the same numbers read the same in every verb."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import IO, Any

NOTHING = "—"


def seconds(value: float | None) -> str:
    """A duration with three significant digits: `0.31 ms`, `12.4 ms`, `3.81 s`."""
    if value is None:
        return NOTHING
    if value < 0.9995:
        return f"{_digits(value * 1e3)} ms"
    return f"{_digits(value)} s"


def megabytes(value: float | None) -> str:
    """A size in MB (10⁶ bytes): `0.42 MB`, `12.4 MB`, `3,350 MB`."""
    return NOTHING if value is None else f"{_digits(value / 1e6)} MB"


def ratio(ours: float | None, theirs: float | None) -> str:
    """How much smaller ours is: `1/24`; where it is larger, `×1.3`."""
    if not ours or not theirs:
        return NOTHING
    return f"1/{_digits(theirs / ours)}" if theirs > ours else f"×{_digits(ours / theirs)}"


def _digits(value: float) -> str:
    if value >= 99.95:
        return f"{value:,.0f}"
    if value >= 9.995:
        return f"{value:.1f}"
    return f"{value:.2f}"


def counted(count: int, noun: str) -> str:
    """`1 run`, `1,000 runs`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def console(stream: IO[str] | None = None) -> Any:
    """A rich console on this stream (stdout by default); the whole width of the text elsewhere than on a
    terminal, so that a log never wraps."""
    from rich.console import Console

    stream = stream or sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else 110)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], emphasis: str | None = None) -> Any:
    """A rich table, its first column text and the others numbers; the row that starts with
    `emphasis` stands out. Brackets in it are brackets, no markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for index, heading in enumerate(headings):
        made.add_column(Text(heading), justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        made.add_row(*map(Text, row), style="bold green" if row[0] == emphasis else "")
    return made
