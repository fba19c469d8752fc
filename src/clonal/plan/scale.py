"""Servers too large to be simulated in whole: smaller ones are, and what they need is drawn on in a line.

All that a fork and a clone do grows with the heap in proportion, but for what is there once: two sizes tell
both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from clonal.model import PAGE
from clonal.model.strategies import Bill, Work
from clonal.plan.server import HUGE, Server

PRICED = 4 << 30  # bytes of a server up to which every strategy is counted on all of it
EXACT = 16 << 30  # the same of the clones of a plain fork
PLAIN = 1_000  # mappings without private pages that are simulated: all others are like them


class Smaller(NamedTuple):
    """A server that stands for a larger one, and how much larger that is."""

    server: Server
    times: float


def smaller(server: Server, size: int) -> Smaller:
    """The same with heap, image and code cut down in proportion, to `size` bytes together."""
    share = size / (server.heap + server.image + server.code)
    if share >= 1:
        return Smaller(server, 1.0)
    made = replace(
        server,
        heap=_whole(server.heap, share, HUGE),
        image=_whole(server.image, share, HUGE),
        code=_whole(server.code, share, PAGE),
    )
    return Smaller(made, server.heap_pages / made.heap_pages if made.heap_pages else 1 / share)


def _whole(size: int, share: float, unit: int) -> int:
    """This share of a size, in whole units: at least one, unless there is nothing."""
    return max(1, round(size * share / unit)) * unit if size else 0


def counted(count: Callable[[Server], Bill], server: Server) -> Bill:
    """What `count` says of the server, or follows for it from two smaller ones."""
    server, spare = few_mappings(server)
    large = smaller(server, PRICED)
    found = count(large.server)
    if large.times > 1:
        small = smaller(server, PRICED // 2)
        beyond = (large.times - 1) / (1 - large.times / small.times)
        found = _drawn_on(count(small.server), found, beyond)
    mapped = Work(vmas=spare if found.caller.vmas else 0)  # vfork duplicates none
    return found._replace(caller=found.caller + mapped)


def _drawn_on(small: Bill, large: Bill, beyond: float) -> Bill:
    made: list[Any] = []
    parts: Iterator[tuple[Any, Any]] = zip(small, large, strict=True)
    for one, two in parts:
        if isinstance(one, Work):
            made.append(Work(*(_further(*each, beyond) for each in zip(one, two, strict=True))))
        else:
            made.append(_further(one, two, beyond))
    return Bill(*made)


def _further(small: int, large: int, beyond: float) -> int:
    return max(0, round(large + (large - small) * beyond))


def few_mappings(server: Server) -> tuple[Server, int]:
    """The same with at most PLAIN mappings without private pages, and how many are left out."""
    spare = max(0, server.vmas - server.anon_vmas - PLAIN)
    return replace(server, vmas=server.vmas - spare), spare
