"""Lines of text with styles, and what they are made of: columns that fit, bars, sparklines."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from rich.cells import cell_len, chop_cells

from clonal.observe.report.count import PAGE
from clonal.report.words import printable, size

Part = tuple[str, str]  # text, style of rich
Line = Sequence[Part]
COLOURS = {
    "reference count": "red",
    "gc header": "yellow",
    "allocator metadata": "magenta",
    "interpreter internals": "blue",
    "data": "green",
    "unknown": "bright_black",
}
EIGHTHS = " ▏▎▍▌▋▊▉█"
LEVELS = " ▁▂▃▄▅▆▇█"
DIM, BOLD, GOOD, BAD = "dim", "bold", "green", "red"


def fit(text: str, width: int) -> str:
    """Exactly so wide: cut on the right, or filled."""
    text = printable(text)
    if cell_len(text) > width:
        text = chop_cells(text, width - 1)[0] + "…"
    return text + " " * (width - cell_len(text))


def fit_end(text: str, width: int) -> str:
    """At most so wide, cut on the left: of a path the end says most."""
    text = printable(text)
    if cell_len(text) <= width:
        return text
    while cell_len(text) > width - 1:
        text = text[1:]
    return "…" + text


def wrapped(text: str, width: int, style: str = "", indent: str = "") -> Iterator[Line]:
    """Lines at most so wide."""
    for line in textwrap.wrap(printable(text), width, initial_indent=indent, subsequent_indent=indent):
        yield ((line, style),)


def fit_place(function: str, place: str, width: int) -> str:
    """A function and its place, exactly so wide: what is too long is cut where it says least."""
    room = width - 2 - min(cell_len(function), max(width // 2, width - 2 - cell_len(place)))
    place = fit_end(place, room)
    return fit(f"{fit(function, min(cell_len(function), width - 2 - cell_len(place)))}  {place}", width)


def percent(part: float, whole: float) -> str:
    """`12.3 %`."""
    return f"{100 * part / whole:.1f} %" if whole else "—"


def amount(pages: int) -> str:
    """Bytes of so many pages."""
    return size(pages * PAGE)


def bar(part: float, whole: float, width: int) -> str:
    """A share as a bar, to an eighth of a cell; something of it is always seen."""
    eighths = max(round(8 * width * part / whole), 1) if part and whole else 0
    return (EIGHTHS[8] * (eighths // 8) + EIGHTHS[eighths % 8]).rstrip()


def sparkline(counts: Iterable[int], most: int | None = None) -> str:
    """Counts as heights; nothing for none."""
    counts = list(counts)
    most = most or max(counts, default=0)
    return "".join(LEVELS[-(-8 * count // most) if most else 0] for count in counts)
