"""Memory over time: clones start, write, end and are replaced, some random fleets of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from clonal.plan.question import Fleet

Values = npt.NDArray[np.float64]
POINTS = 60
HALVINGS = 24
FLEETS = 12  # random ones, where lifetimes make them differ
MOST = 4_000_000  # births of all of them
LONG = 4  # a random age is drawn anew for each moment: fewer fleets then
LIVES = 2.0  # how many mean lifetimes are looked at after all clones have started


class OverTime(NamedTuple):
    """Bytes at each moment, in seconds: of the middle fleet and of the worst. `p50` and `worst` are over the
    time after all clones have started. `full`: the first moment above the limit, of the middle fleet, and
    `alive` the clones alive then; None if it is never reached. `over`: the share of fleets that reach it."""

    seconds: list[float]
    middle: list[float]
    highest: list[float]
    p50: float
    worst: float
    full: float | None
    alive: int | None
    over: float

    def to_json(self) -> dict[str, Any]:
        """Bytes and seconds."""
        return {
            "p50": self.p50,
            "worst": self.worst,
            "seconds": self.seconds,
            "middle": self.middle,
            "highest": self.highest,
        }


def over_time(
    fleet: Fleet, base: float, overhead: float, private: float, start: float, write: float, room: float
) -> OverTime:
    """`base`: bytes before the first clone, `overhead` and `private`: of each; `start`: seconds between two
    clones; `write`: seconds in which a clone writes all it will; `room`: bytes there are."""
    begun = fleet.clones * start
    settling = begun + (min(write, fleet.lifetime) if fleet.lifetime else write)
    horizon = settling + (LIVES * fleet.lifetime if fleet.lifetime else start) + 1e-6
    first: Values = np.arange(fleet.clones, dtype=np.float64) * start
    ages = _ages(fleet, first, horizon)
    times = np.linspace(0.0, horizon, POINTS)
    used = np.array([base + _held(ages(t), write, overhead, private) for t in times])
    settled = used[times >= min(settling, times[-1])]
    middle, highest = np.median(used, axis=1), used.max(axis=1)
    usual = bool((middle > room).any())

    def above(time: float) -> bool:
        used = base + _held(ages(time), write, overhead, private)
        return bool(np.median(used) > room if usual else (used > room).any())

    full = _first(times, above) if highest.max() > room else None
    alive = None if full is None else int((first <= full).sum())
    over = float((used > room).any(axis=0).mean())
    return OverTime(
        times.tolist(), middle.tolist(), highest.tolist(), float(np.median(settled)), float(highest.max()),
        full, alive, over,
    )  # fmt: skip


def _first(times: Values, holds: Callable[[float], bool]) -> float:
    """The first moment at which something holds, as exactly as halving finds it between two of the times."""
    number = next(number for number, time in enumerate(times) if holds(time))
    low, high = float(times[max(number - 1, 0)]), float(times[number])
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _ages(fleet: Fleet, first: Values, horizon: float) -> Callable[[float], Values]:
    """[fleet, place] at a moment: how old the clone in each place is, infinite where none is yet. `first`:
    when each place is taken for the first time. Lifetimes are random, seeded."""
    if fleet.lifetime is None:
        return lambda time: np.where(first <= time, time - first, np.inf)[None, :]
    lives = 12 + 2 * int(horizon / fleet.lifetime)  # more than anybody lives until then
    if fleet.clones * lives <= MOST:
        return partial(_by_births, _births(fleet, first, lives))
    fleets = max(1, min(FLEETS, MOST // LONG // fleet.clones))
    return partial(_by_chance, fleets, first, fleet.lifetime)


def _births(fleet: Fleet, first: Values, lives: int) -> Values:
    """[fleet, place, life]: when each clone in each place is born."""
    fleets = max(1, min(FLEETS, MOST // (fleet.clones * lives)))
    lengths = np.random.default_rng(1).exponential(fleet.lifetime or 0.0, (fleets, fleet.clones, lives))
    lengths[..., 0] = 0.0
    return np.asarray(first[None, :, None] + np.cumsum(lengths, axis=2), np.float64)


def _by_births(births: Values, time: float) -> Values:
    return np.asarray(time - np.where(births <= time, births, -np.inf).max(axis=2), np.float64)


def _by_chance(fleets: int, first: Values, lifetime: float, time: float) -> Values:
    """Where the lives are too many to be followed: exponential ones are at any moment as old as they last."""
    random = np.random.default_rng(int(time * 1e9))
    age = np.minimum(random.exponential(lifetime, (fleets, first.size)), time - first)
    return np.where(first <= time, age, np.inf)


def _held(age: Values, write: float, overhead: float, private: float) -> Values:
    """Bytes that the clones of each fleet take."""
    alive = np.isfinite(age)
    done = np.minimum(1.0, np.divide(age, write, where=alive, out=np.ones_like(age))) if write else 1.0
    held = np.where(alive, overhead + private * done, 0.0).sum(axis=1)
    return np.asarray(held, np.float64)
