"""What of a sweep is drawn: each figure over the parameter with the most values, a line for each way of
cloning and for each value of the other parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from clonal.errors import Error
from clonal.plan.curves import COLOURS, label, rival
from clonal.plan.planner import OURS, PLAIN, Outlook
from clonal.plan.question import MOST_CLONES
from clonal.plan.sweep import Axis as Swept
from clonal.plan.sweep import Point
from clonal.report.axis import DECADES, Axis, around, sizes, times
from clonal.report.chart import Chart, Line
from clonal.report.colour import Colour, ramp
from clonal.report.words import parse_share, parse_size, parse_time


class Measure(NamedTuple):
    """A figure of a strategy, and the axis it is drawn on."""

    title: str
    value: Callable[[Outlook], float]
    axis: Callable[..., Axis]


def counts(name: str, low: float, high: float, log: bool = False) -> Axis:
    """Whole numbers."""
    return Axis(name, low, high, log, lambda value: f"{value:,.6g}")


MEASURES = (
    Measure("One fork stops the caller for", lambda found: found.way.stall, times),
    Measure("A clone's first touches take", lambda found: found.way.touch, times),
    Measure("One more clone takes", lambda found: found.way.memory, sizes),
    Measure("The fleet's memory, p50", lambda found: found.memory.p50, sizes),
    Measure("The storm: all clones touch at once", lambda found: found.storm.seconds * 1e9, times),
    Measure("Clones that fit", lambda found: min(found.fit.clones, MOST_CLONES), counts),
)
SIZES = ("heap", "code", "ram", "swap", "used", "committed", "limit", "rate")
SHARES = ("written", "refcounts", "read")


def number(name: str, text: str) -> float:
    """What a value of a parameter is as a number. Raises Error or ValueError."""
    if name in SIZES:
        return parse_size(text, name)
    if name in SHARES:
        return parse_share(text, name)
    return parse_time(text, name) if name == "lifetime" else float(text)


class Lines:
    """The lines of a sweep, before it is said what they show."""

    def __init__(self, axes: Sequence[Swept], points: Sequence[Point]) -> None:
        self.points = points
        self.along = max(range(len(axes)), key=lambda index: len(axes[index].values))
        self.swept = axes[self.along]
        self.others = [axis for axis in axes if axis is not self.swept]
        self.places = _places(self.swept)
        self.groups: dict[tuple[str, ...], list[Point]] = {}
        for point in points:
            self.groups.setdefault(self._other(point.values), []).append(point)

    def _other(self, values: tuple[str, ...]) -> tuple[str, ...]:
        return values[: self.along] + values[self.along + 1 :]

    def at(self, point: Point) -> float:
        """Where on the axis a plan is."""
        return self.places[point.values[self.along]]

    def axis(self) -> Axis:
        """The parameter itself, with its values as they were written."""
        low, high = min(self.places.values()), max(self.places.values())
        named = {value: text for text, value in self.places.items()}
        if low > 0 and high / low >= DECADES:
            return Axis(self.swept.name, low, high, True, named.__getitem__, named=named)
        margin = (high - low or 1.0) * 0.02
        return Axis(self.swept.name, low - margin, high + margin, words=named.__getitem__, named=named)

    def of(self, measure: Measure) -> Iterator[Line]:
        """A line for each group and way."""
        names = (PLAIN, rival(self.points[0].plan))
        hues = ramp(len(self.groups))
        for index, (values, points) in enumerate(self.groups.items()):
            for name in names:
                colour = hues[index] if self.others else COLOURS[name]
                yield self._line(measure, values, points, name, colour)

    def _line(
        self, measure: Measure, values: tuple[str, ...], points: list[Point], name: str, colour: Colour
    ) -> Line:
        found = sorted((self.at(point), measure.value(point.plan.outlooks[name])) for point in points)
        said = [f"{axis.name} {value}" for axis, value in zip(self.others, values, strict=True)]
        dashed = bool(self.others) and name != PLAIN
        return Line(", ".join([*said, label(name)]), found, colour, name == OURS, dashed, dots=True)


def _places(axis: Swept) -> dict[str, float]:
    """Each value's place: its number, or its turn where it has none or another has the same."""
    try:
        found = {text: number(axis.name, text) for text in axis.values}
    except (Error, ValueError):
        found = {}
    if len(set(found.values())) < len(axis.values):
        return {text: float(turn) for turn, text in enumerate(axis.values)}
    return found


def charts(axes: Sequence[Swept], points: Sequence[Point]) -> list[Chart]:
    """Of every figure that the sweep changes."""
    made = Lines(axes, points)
    return [
        Chart(measure.title, made.axis(), _up(measure, drawn), drawn)
        for measure in MEASURES
        if not _constant(drawn := list(made.of(measure)))
    ]


def constants(axes: Sequence[Swept], points: Sequence[Point]) -> list[str]:
    """The figures that it does not change, in words."""
    made = Lines(axes, points)
    return [measure.title for measure in MEASURES if _constant(list(made.of(measure)))]


def _up(measure: Measure, drawn: Sequence[Line]) -> Axis:
    return around("", (y for line in drawn for _, y in line.points), measure.axis)


def _constant(drawn: Sequence[Line]) -> bool:
    """Whether each way has one value only."""
    by_way: dict[str, set[float]] = {}
    for line in drawn:
        by_way.setdefault(line.name.rpartition(", ")[2], set()).update(y for _, y in line.points)
    return all(max(values) <= min(values) * 1.001 for values in by_way.values())
