"""Median and spread of samples, and when they are too unstable to quote."""

from __future__ import annotations

import itertools
import statistics as _statistics
from collections.abc import Sequence
from dataclasses import dataclass

UNSTABLE = 0.3  # interquartile range over median from which a measure is called unstable
ENOUGH = 5  # samples below which a spread says nothing


@dataclass(frozen=True)
class Measure:
    """One measured quantity: its median, quartiles, minimum and number of samples."""

    median: float
    q1: float
    q3: float
    minimum: float
    count: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Measure:
        ordered = sorted(samples)
        if len(ordered) < 2:
            only = ordered[0]
            return cls(only, only, only, only, 1)
        q1, median, q3 = _statistics.quantiles(ordered, n=4, method="inclusive")
        return cls(median, q1, q3, ordered[0], len(ordered))

    @property
    def spread(self) -> float:
        """Interquartile range as a share of the median."""
        return (self.q3 - self.q1) / self.median if self.median else 0.0

    @property
    def unstable(self) -> bool:
        return self.count >= ENOUGH and self.spread > UNSTABLE


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Least-squares slope of y over x."""
    xs, ys = zip(*points, strict=True)
    return _statistics.linear_regression(xs, ys).slope


def crossing(points: Sequence[tuple[float, float, float]]) -> float | None:
    """Where the second of two curves given as (x, first, second) rises above the first.

    >>> crossing([(0.0, 5.0, 1.0), (1.0, 10.0, 16.0)])
    0.4
    """
    for (x0, a0, b0), (x1, a1, b1) in itertools.pairwise(points):
        before, after = b0 - a0, b1 - a1
        if before <= 0 < after:
            return x0 + (x1 - x0) * -before / (after - before)
    return None
