"""A fault storm: children that all write the same pages at the same moment, and what helps.

What each mitigation moves elsewhere is in `total`, which runs from before the first fork until the
last child was reaped.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
from collections.abc import Callable
from typing import Any

from clonal.bench import memory
from clonal.bench.clock import Clock, Slot, now
from clonal.bench.heap import HEAP, PAGE
from clonal.bench.launchers import reap
from clonal.bench.strategies import Strategy

Buffer = bytearray | mmap.mmap
FIRST_END = len(Slot)  # the children's ends lie behind the slots that have names

# name -> what it does; the first five are the article's advice and what the kernel really offers
MITIGATIONS = {
    "none": "children write",
    "pretouch": "the parent writes the pages just before forking",
    "populate": "each child copies the pages by one MADV_POPULATE_WRITE",
    "standby": "children are forked and populated before they are needed",
    "shared": "the pages are MAP_SHARED: nothing is copied, all see all writes",
    "vfork": "children that exec and fill pages of their own",
}


def storm(
    spec: dict[str, Any], strategy: Strategy, mitigation: str, children: int, size: int
) -> dict[str, int]:
    if mitigation == "vfork":
        return _vfork_storm(spec, children, size)
    clock = Clock(spec["page"])
    buffers = _shared(size) if mitigation == "shared" else _heap_part(size)
    start = now()
    if mitigation == "pretouch":
        write(buffers)
    release, pids = _fork_all(
        children,
        lambda: _prepare(buffers, mitigation),
        lambda: _act(buffers, mitigation),
        clock,
    )
    released = now()
    os.close(release)
    for pid in pids:
        reap(pid)
    slowest = max(clock.at(FIRST_END + index) for index in range(children))
    return {"slowest": slowest - released, "total": now() - start}


def _prepare(buffers: list[Buffer], mitigation: str) -> None:
    if mitigation == "standby":
        populate(buffers)


def _act(buffers: list[Buffer], mitigation: str) -> None:
    if mitigation == "populate":
        populate(buffers)
    write(buffers)


def _fork_all(
    children: int, prepare: Callable[[], None], act: Callable[[], None], clock: Clock
) -> tuple[int, list[int]]:
    """Children that have prepared and wait; closing the returned descriptor lets them act."""
    release_reader, release_writer = os.pipe()
    ready_reader, ready_writer = os.pipe()
    pids = []
    for index in range(children):
        pid = os.fork()
        if pid == 0:
            try:
                os.close(release_writer)
                prepare()
                os.write(ready_writer, b"r")
                os.read(release_reader, 1)
                act()
                clock.stamp(FIRST_END + index)
                os._exit(0)
            finally:
                os._exit(1)
        pids.append(pid)
    arrived = 0
    while arrived < children:
        arrived += len(os.read(ready_reader, children))
    for descriptor in (release_reader, ready_reader, ready_writer):
        os.close(descriptor)
    return release_writer, pids


def write(buffers: list[Buffer]) -> None:
    for buffer in buffers:
        buffer[::PAGE] = b"s" * len(range(0, len(buffer), PAGE))


def populate(buffers: list[Buffer]) -> None:
    memory.copy_everything([_span(buffer) for buffer in buffers])


def _span(buffer: Buffer) -> tuple[int, int]:
    start = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    return start // PAGE * PAGE, -(-(start + len(buffer)) // PAGE) * PAGE


def _heap_part(size: int) -> list[Buffer]:
    """The heap's buffers; a storm's subject has `size` bytes of them and nothing else."""
    assert HEAP.size <= size
    return list(HEAP.buffers)


def _shared(size: int) -> list[Buffer]:
    area = mmap.mmap(-1, size)
    area[::PAGE] = b"0" * len(range(0, size, PAGE))  # present before the storm, as the heap is
    return [area]


def _vfork_storm(spec: dict[str, Any], children: int, size: int) -> dict[str, int]:
    start = now()
    started = [subprocess.Popen([spec["floor"], "write", str(size)]) for _ in range(children)]
    for child in started:
        child.wait()
    elapsed = now() - start
    return {"slowest": elapsed, "total": elapsed}
