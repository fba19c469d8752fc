"""One self-contained HTML page: tables, and line charts as inline SVG. It loads nothing, runs nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from clonal.report.words import duration
from clonal.report.words import size as size_in_words

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 380, 70, 180, 20, 40
PALETTE = (
    "#d1495b",
    "#edae49",
    "#30638e",
    "#8d0801",
    "#7fb069",
    "#2a9134",
    "#137547",
    "#054a29",
    "#777777",
)
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem;
  padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .5rem 0 2rem; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right; vertical-align: bottom }
th:first-child, td:first-child { text-align: left }
.note { color: #555; font-size: 90% } .warning { color: #a33 }
svg text { font: 12px system-ui, sans-serif }
"""


def page(title: str, caption: str, parts: Iterable[str], data: Mapping[str, Any]) -> str:
    """The whole page of parts made by the functions below; the data lies in it as JSON."""
    embedded = json.dumps(data).replace("<", "\\u003c")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n"
        f"<h1>{escape(title)}</h1><p>{escape(caption)}</p>\n{''.join(parts)}\n"
        f'<script type="application/json" id="results">{embedded}</script>\n</body></html>\n'
    )


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>\n" for row in rows)
    return f"<h2>{escape(title)}</h2>\n<table><tr>{head}</tr>\n{body}</table>\n"


def paragraph(text: str, *, warning: bool = False) -> str:
    return f'<p class="{"warning" if warning else "note"}">{escape(text)}</p>\n'


def chart(title: str, lines: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """Nanoseconds over bytes, both logarithmic, a line for each name; empty without two sizes."""
    drawable = {name: points for name, points in lines.items() if len(points) > 1}
    return f"<h2>{escape(title)}</h2>\n{Chart(drawable).svg()}\n" if drawable else ""


class Chart:
    def __init__(self, lines: Mapping[str, Sequence[tuple[int, float]]]) -> None:
        self.lines = lines
        points = [point for line in lines.values() for point in line]
        self.xs = sorted({x for x, _ in points})
        values = [y for _, y in points if y > 0]
        self.low = math.floor(math.log10(min(values)))
        self.high = max(self.low + 1, math.ceil(math.log10(max(values))))

    def x(self, size: float) -> float:
        first, last = math.log(self.xs[0]), math.log(self.xs[-1])
        return LEFT + (math.log(size) - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def svg(self) -> str:
        parts = [*self.axes(), *self.curves()]
        return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img">' + "".join(parts) + "</svg>"

    def axes(self) -> Iterator[str]:
        for power in range(self.low, self.high + 1):
            y = self.y(10.0**power)
            yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
            yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{duration(10.0**power)}</text>'
        for size in self.xs:
            x, name = self.x(size), size_in_words(size)
            yield f'<text x="{x:.1f}" y="{HEIGHT - 15}" text-anchor="middle">{name}</text>'

    def curves(self) -> Iterator[str]:
        """Each line with its name at the right end, moved down where names would overlap."""
        last = -math.inf
        ordered = sorted(enumerate(self.lines.items()), key=lambda item: self.y(item[1][1][-1][1]))
        for number, (name, points) in ordered:
            colour = PALETTE[number % len(PALETTE)]
            path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
            label = max(self.y(points[-1][1]) + 4, last + 13)
            last = label
            yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
            yield f'<text x="{WIDTH - RIGHT + 8}" y="{label:.1f}" fill="{colour}">{escape(name)}</text>'
