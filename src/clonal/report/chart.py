"""Lines over an axis, and bars: described once, drawn as SVG here and by matplotlib in plot.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import NamedTuple

from clonal.report import svg
from clonal.report.axis import Axis
from clonal.report.colour import Colour

TOP, BOTTOM, RIGHT, LINE = 14, 48, 18, 30


class Mark(NamedTuple):
    """A moment of a line that is pointed at."""

    x: float
    y: float
    words: str


@dataclass(frozen=True)
class Line:
    """`band`: (x, low, high) around it. `until`: what comes after is drawn pale. `on`: shown at first, where
    lines can be hidden."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: Colour
    strong: bool = False
    dashed: bool = False
    dots: bool = False
    band: Sequence[tuple[float, float, float]] = ()
    until: float | None = None
    mark: Mark | None = None
    on: bool = True
    hint: str = ""


@dataclass(frozen=True)
class Chart:
    """`limit`: a line across, with its name."""

    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line]
    limit: tuple[float, str] | None = None


class Bar(NamedTuple):
    name: str
    value: float
    colour: Colour
    strong: bool = False
    hint: str = ""


@dataclass(frozen=True)
class Bars:
    title: str
    axis: Axis
    bars: Sequence[Bar] = field(default_factory=tuple)


def hue(colour: Colour) -> str:
    """The colour of an element of class `hue`."""
    return f"--light:{colour.light};--dark:{colour.dark}"


class Drawing:
    """A chart at one size."""

    def __init__(self, chart: Chart, width: float, height: float) -> None:
        self.chart, self.width, self.height = chart, width, height
        self.rows = chart.y.ticks(int(height // 48))
        self.left = 12 + max(map(svg.width_of, self.rows.values()), default=0)
        self.right, self.bottom = width - RIGHT, height - BOTTOM

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a value is drawn; what is beyond the top ends there."""
        high = max(-0.02, min(1.03, self.chart.y.share(y)))
        across = max(0.0, min(1.0, self.chart.x.share(x)))
        return (
            self.left + across * (self.right - self.left),
            self.bottom - high * (self.bottom - TOP),
        )

    def svg(self, css: str = "") -> str:
        parts = [*self._grid(), *self._lines(), *self._limit(), *self._marks()]
        return svg.image(self.width, self.height, self.chart.title, parts, css)

    def _grid(self) -> Iterator[str]:
        for value, name in self.rows.items():
            _, y = self.place(self.chart.x.low, value)
            yield svg.line(self.left, y, self.right, y, "grid")
            yield svg.text(self.left - 8, y + 4, name, "end")
        end = -svg.LETTER
        for value, name in sorted(self.chart.x.ticks(int(self.width // 95)).items()):
            x, _ = self.place(value, self.chart.y.low)
            half = svg.width_of(name) / 2
            yield svg.line(x, self.bottom, x, self.bottom + 4, "grid")
            if x - half > end + svg.LETTER and x + half < self.width + RIGHT:
                yield svg.text(min(x, self.width - half), self.bottom + 21, name, "middle")
                end = x + half
        yield svg.text((self.left + self.right) / 2, self.height - 6, self.chart.x.name, "middle dim")

    def _limit(self) -> Iterator[str]:
        if self.chart.limit is None:
            return
        value, name = self.chart.limit
        above = value > self.chart.y.high
        _, y = self.place(self.chart.x.low, value)
        if not above:
            yield svg.line(self.left, y, self.right, y, "limit")
        height, words = (TOP + 10, f"{name} ↑") if above else (y - 6, name)
        if self.chart.x.log:  # where curves are low: at the left of a logarithmic axis, else at the right
            yield svg.text(self.left + 6, height, words, "limit")
        else:
            yield svg.text(self.right, height, words, "limit end")

    def _lines(self) -> Iterator[str]:
        for number, line in enumerate(self.chart.lines):
            yield f'<g class="hue line l{number}{" strong" * line.strong}" style="{hue(line.colour)}">'
            yield f"<title>{escape(line.hint or line.name)}</title>"
            if line.band:
                upper = [self.place(x, high) for x, _, high in line.band]
                lower = [self.place(x, low) for x, low, _ in reversed(line.band)]
                yield svg.polygon(upper + lower, "band")
            yield from self._curve(line)
            yield "</g>"

    def _curve(self, line: Line) -> Iterator[str]:
        dashed = " dashed" * line.dashed
        before, after = split(line)
        yield svg.polyline([self.place(*point) for point in before], f"curve{dashed}")
        if after:
            yield svg.polyline([self.place(*point) for point in after], "curve after")
        for x, y in line.points if line.dots else ():
            at = self.place(x, y)
            words = f"{self.chart.x.words(x)}: {self.chart.y.words(y)}"
            yield f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="3.2"><title>{escape(words)}</title></circle>'

    def _marks(self) -> Iterator[str]:
        """A cross and its words below it, further down where words would overlap."""
        marked = [(n, line, line.mark) for n, line in enumerate(self.chart.lines) if line.mark is not None]
        taken: list[tuple[float, float]] = []  # where each begins, and at which height
        for number, line, mark in sorted(marked, key=lambda each: (not each[1].on, each[2].x)):
            x, y = self.place(mark.x, mark.y)
            wide = svg.width_of(mark.words) + 14
            start = x if x + wide < self.right else x - wide
            down = y + 18
            while any(abs(start - other) < wide and abs(down - height) < 16 for other, height in taken):
                down += 16
            taken.append((start, down))
            yield f'<g class="hue line oom l{number}" style="{hue(line.colour)}">'
            yield svg.line(x - 5, y - 5, x + 5, y + 5) + svg.line(x - 5, y + 5, x + 5, y - 5)
            yield svg.text(max(4.0, start + 9), down, mark.words) + "</g>"


def split(line: Line) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """The points of a line until its end, and those after it; both have the moment itself."""
    points = list(line.points)
    if line.until is None:
        return points, []
    before = [point for point in points if point[0] <= line.until]
    after = [point for point in points if point[0] > line.until]
    if line.mark is not None:
        before, after = [*before, line.mark[:2]], [line.mark[:2], *after]
    return before, after


def bars_svg(chart: Bars, width: float, css: str = "") -> str:
    """Horizontal bars with their names before them and their values behind."""
    left = 14 + max((svg.width_of(bar.name) for bar in chart.bars), default=0)
    room = (
        width - left - 12 - max((svg.width_of(chart.axis.words(bar.value)) for bar in chart.bars), default=0)
    )
    bottom = 6 + LINE * len(chart.bars)
    parts = list(_bar_grid(chart.axis, left, room, bottom))
    for number, bar in enumerate(chart.bars):
        y = 6 + number * LINE
        long = max(2.0, min(1.0, chart.axis.share(bar.value)) * room) if bar.value > 0 else 0.0
        strong = " strong" * bar.strong
        said = chart.axis.words(bar.value)
        parts += [
            f'<g class="hue bar{strong}" style="{hue(bar.colour)}">',
            f"<title>{escape(bar.hint or bar.name)}</title>",
            svg.text(left - 8, y + 18, bar.name, "end"),
            svg.rect(left, y + 4, long, LINE - 10),
            svg.text(left + long + 6, y + 18, said, "value") + "</g>",
        ]
    return svg.image(width, bottom + 24, chart.title, parts, css)


def _bar_grid(axis: Axis, left: float, room: float, bottom: float) -> Iterator[str]:
    end = 0.0
    for value, name in sorted(axis.ticks(5).items()):
        x = left + axis.share(value) * room
        yield svg.line(x, 0, x, bottom, "grid")
        if x - svg.width_of(name) / 2 > end:
            yield svg.text(x, bottom + 18, name, "middle dim")
            end = x + svg.width_of(name) / 2 + svg.LETTER
