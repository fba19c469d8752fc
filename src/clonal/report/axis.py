"""An axis of a chart: what it spans, linear or logarithmic, where its ticks are and what they say."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from clonal.report.words import duration, three
from clonal.report.words import size as size_in_words

DECADES = 10.0  # what spans as much is drawn on a logarithmic axis


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`. `words` says a value; `unit` is what round values are multiples of; `named`: the
    only ticks, with their names, where they are not to be found here."""

    name: str
    low: float
    high: float
    log: bool = False
    words: Callable[[float], str] = three
    unit: float = 1.0
    named: Mapping[float, str] = field(default_factory=dict)

    def share(self, value: float) -> float:
        """Where a value lies between the ends: 0 to 1, beyond them if it does."""
        if not self.log:
            return (value - self.low) / (self.high - self.low)
        value = max(value, self.low / 1e3)
        return math.log(value / self.low) / math.log(self.high / self.low)

    def ticks(self, most: int) -> dict[float, str]:
        """Round values within the ends, about as many as `most`, and what they are called."""
        if self.named:
            return dict(self.named)
        found = _decades(self.low, self.high, most) if self.log else _steps(self, most)
        return {value: self.words(value) if value else "0" for value in found}


def _decades(low: float, high: float, most: int) -> list[float]:
    """Powers of ten; where there are few, 2 and 5 of each too."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    stride = max(1, math.ceil((last - first) / most))
    parts = (1, 2, 5) if last - first <= most / 3 else (1,)
    every = [part * 10.0**power for power in range(first, last + 1, stride) for part in parts]
    return [value for value in every if low * 0.999 <= value <= high * 1.001]


def _steps(axis: Axis, most: int) -> list[float]:
    step = _round(axis.high - axis.low, most, axis.unit)
    first = math.ceil(axis.low / step - 1e-9)
    return [number * step for number in range(first, math.floor(axis.high / step + 1e-9) + 1)]


def _round(span: float, most: int, unit: float) -> float:
    """The smallest step of 1, 2 or 5 times a power of ten units of which at most `most` span it."""
    least = span / most / unit
    power = 10.0 ** math.floor(math.log10(least))
    return next(part * power for part in (1, 2, 5, 10) if part * power >= least * 0.999) * unit


def sizes(name: str, low: float, high: float, log: bool = False) -> Axis:
    """Bytes. A logarithmic one ends at powers of two that name it."""
    if not log:
        unit = 1024.0 ** max(0, min(3, math.floor(math.log(max(high, 1), 1024))))
        return Axis(name, low, high, words=size_in_words, unit=unit)
    first, last = math.floor(math.log2(low)), math.ceil(math.log2(high))
    stride = max(1, round((last - first) / 4))
    named = {2.0**power: size_in_words(2.0**power) for power in range(first, last + 1, stride)}
    return Axis(name, low, high, True, size_in_words, named=named)


def times(name: str, low: float, high: float, log: bool = False) -> Axis:
    """Nanoseconds."""
    return Axis(name, low, high, log, duration)


def around(name: str, values: Iterable[float], make: Callable[..., Axis] = Axis) -> Axis:
    """An axis that holds all values: logarithmic if they span decades, else from 0."""
    found = [value for value in values if value > 0] or [1.0]
    low, high = min(found), max(found)
    if high / low < DECADES:
        return make(name, 0.0, high * 1.1)
    ends = 10.0 ** math.floor(math.log10(low) + 1e-9), 10.0 ** math.ceil(math.log10(high) - 1e-9)
    return make(name, *((low * 0.8, high * 1.25) if make is sizes else ends), log=True)
