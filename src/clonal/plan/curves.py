"""What of a plan is drawn: the fleet's memory over time, bars by strategy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from clonal.plan.planner import OURS, PLAIN, Outlook, Plan
from clonal.report.axis import DECADES, Axis, around, sizes, times
from clonal.report.chart import Bar, Bars, Chart, Line, Mark
from clonal.report.colour import BLUE, BROWN, GOLD, GREEN, GREY, RED, TEAL, VIOLET
from clonal.report.words import duration, size

VFORK = "vfork"
COLOURS = {
    "eager": BROWN,
    PLAIN: RED,
    VFORK: BLUE,
    "shared_tables": GOLD,
    "async_copy": VIOLET,
    OURS: GREEN,
    "hardware": TEAL,
}
SAMPLES = 120  # of a line over time
ABOVE = 1.3  # how far beyond the capacity a chart goes, and from what share of it on it shows it


def label(name: str) -> str:
    """What a strategy is called in a picture."""
    return "cow (os.fork)" if name == PLAIN else name


def rival(plan: Plan) -> str:
    """What os.fork is to be compared with: an image, or vfork where clones only run another program."""
    return VFORK if plan.fleet.execs else OURS


def memory(plan: Plan) -> Chart:
    """The fleet's memory over time: the middle fleet as a line, the worst as a band above it."""
    shown = {name: plan.outlooks[name].memory for name in (PLAIN, rival(plan))}
    ends = [found.seconds[-1] for found in shown.values()]
    log = max(ends) / min(ends) >= DECADES
    first = min(found.seconds[1] for found in shown.values())
    across = times("time since the first clone", first * 1e9 if log else 0.0, max(ends) * 1e9, log)
    capacity, peak = plan.host.capacity, max(max(found.highest) for found in shown.values())
    top = max(capacity * 1.12, min(peak * 1.08, capacity * ABOVE)) if peak * 4 > capacity else peak * 1.15
    drawn = [_line(name, outlook, plan, across) for name, outlook in plan.outlooks.items()]
    limit = (float(capacity), f"{plan.host.bound}: {size(capacity)}")
    return Chart("The fleet's memory over time", across, sizes("memory", 0.0, top), drawn, limit)


def _line(name: str, outlook: Outlook, plan: Plan, across: Axis) -> Line:
    found = outlook.memory
    last = across.high * 1e-9 if plan.fleet.lifetime is None else min(across.high * 1e-9, found.seconds[-1])
    made = np.geomspace if across.log else np.linspace
    seconds = made(max(across.low * 1e-9, 0.0), last, SAMPLES)
    middle, highest = (np.interp(seconds, found.seconds, each) for each in (found.middle, found.highest))
    at = (seconds * 1e9).tolist()
    band = list(zip(at, middle.tolist(), highest.tolist(), strict=True)) if (highest > middle).any() else []
    return Line(
        label(name),
        list(zip(at, middle.tolist(), strict=True)),
        COLOURS[name],
        strong=name == OURS,
        band=band,
        until=None if found.full is None else found.full * 1e9,
        mark=_end(outlook, last),
        on=name in (PLAIN, rival(plan)),
        hint=f"{name}: {outlook.way.what}; p50 {size(found.p50)}, worst {size(found.worst)}",
    )


def _end(outlook: Outlook, last: float) -> Mark | None:
    """Where memory ends, if that is drawn."""
    found = outlook.memory
    if found.full is None or found.full > last:
        return None
    line = found.middle if found.over >= 0.5 else found.highest
    height = float(np.interp(found.full, found.seconds, line))
    return Mark(found.full * 1e9, height, f"OOM: {duration(found.full * 1e9)}, {found.alive or 0:,} clones")


def stalls(plan: Plan) -> Bars:
    """How long one fork stops the caller."""
    return _bars("How long one fork stops the caller", plan, lambda outlook: outlook.way.stall, times)


def memories(plan: Plan) -> Bars:
    """What one more clone takes."""
    return _bars("What one more clone takes", plan, lambda outlook: float(outlook.way.memory), sizes)


def _bars(title: str, plan: Plan, value: Callable[[Outlook], float], make: Callable[..., Axis]) -> Bars:
    values = {name: value(outlook) for name, outlook in plan.outlooks.items()}
    drawn = [
        Bar(label(name), values[name], COLOURS.get(name, GREY), name == OURS, outlook.way.what)
        for name, outlook in plan.outlooks.items()
    ]
    return Bars(title, around("log scale", values.values(), make), drawn)
