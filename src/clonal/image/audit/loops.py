"""Event loops: clones would share the loop's epoll instance and its wake-up sockets."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from clonal.image.audit.hazard import Hazard, listed
from clonal.image.audit.heap import ask, type_name
from clonal.image.audit.registry import Facts, check

LOOP = "asyncio.events:AbstractEventLoop"
TRIO = "trio._core._run:Runner"
REMEDY = (
    "close it before the freeze and run a loop of its own in each clone: the epoll instance and the "
    "wake-up sockets are shared, so that one process takes the other's events"
)


@check(LOOP, TRIO)
def event_loops(facts: Facts) -> Iterator[Hazard]:
    """Loops that run, and loops that are idle but open."""
    loops = [one for one in facts.heap.instances(LOOP) if not _answers(one, "is_closed", default=True)]
    running = [type_name(one) for one in loops if _answers(one, "is_running", default=False)]
    running += [f"{type_name(one)} (a running trio loop)" for one in facts.heap.instances(TRIO)]
    idle = [type_name(one) for one in loops if not _answers(one, "is_running", default=False)]
    if running:
        yield Hazard("event-loop", "danger", f"running: {listed(running)}", REMEDY)
    if idle:
        yield Hazard("event-loop", "warning", f"open, not running: {listed(idle)}", REMEDY)


def _answers(loop: Any, question: str, *, default: bool) -> bool:
    return bool(ask(lambda: getattr(loop, question)(), default=default))


def loop_descriptors(facts: Facts) -> dict[int, str]:
    """The descriptors that belong to asyncio's open loops: reported with the loop, not again."""
    owned: dict[int, str] = {}
    for loop in facts.heap.instances(LOOP):
        for path in (("_selector", "_selector"), ("_ssock",), ("_csock",)):
            fd = _descriptor_of(loop, path)
            if fd is not None:
                owned[fd] = type_name(loop)
    return owned


def _descriptor_of(loop: Any, path: tuple[str, ...]) -> int | None:
    """The descriptor of an attribute of a loop, if it has such an attribute and that one is open."""
    fd = ask(lambda: functools.reduce(getattr, path, loop).fileno(), default=None)
    return fd if type(fd) is int else None
