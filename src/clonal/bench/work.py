"""What a child does with the heap it was given."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

from clonal.bench.heap import PAGE, Heap


def answer(heap: Heap) -> int:
    """The first useful result: one lookup, as small a job as a warm process can have."""
    if not heap.records:
        return 1
    entry = heap.records[len(heap.records) // 2]
    return int(entry["id"]) + len(entry["name"])


def nothing(_heap: Heap) -> int:
    return 0


def read_objects(heap: Heap) -> int:
    """Reads every object: each record, its strings, its list and what that holds."""
    total = 0
    for entry in heap.records:
        total += entry["id"] + len(entry["name"])
        for tag in entry["tags"]:
            total += tag is not None
        total += entry["price"] > 0
    return total


def touch_buffers(heap: Heap) -> int:
    """Reads one byte of every page of the raw buffers: what the faults cost, without the bandwidth."""
    return sum(len(buffer[::PAGE]) for buffer in heap.buffers)


def scan_buffers(heap: Heap) -> int:
    """Reads every byte of the raw buffers."""
    return sum(buffer.count(0) for buffer in heap.buffers)


def read_all(heap: Heap) -> int:
    return read_objects(heap) + touch_buffers(heap)


def write_objects(heap: Heap, share: float) -> None:
    """Writes to this share of the records: the oldest, which lie together, so pages follow records."""
    for index in range(int(len(heap.records) * share)):
        entry = heap.records[index]
        entry["price"] = entry["id"] + share


def write_buffers(heap: Heap, share: float) -> None:
    """Writes one byte in this share of the pages, evenly spread; 1 / share is a whole number."""
    step = max(1, round(1 / share)) * PAGE
    for buffer in heap.buffers:
        buffer[::step] = b"w" * len(range(0, len(buffer), step))


def write_share(share: float) -> Callable[[Heap], int]:
    def write(heap: Heap) -> int:
        if share > 0:
            write_objects(heap, share)
            write_buffers(heap, share)
        return 0

    return write


OPS: dict[str, Callable[[Heap], int]] = {
    "nothing": nothing,
    "read_objects": read_objects,
    "touch_buffers": touch_buffers,
    "scan_buffers": scan_buffers,
    "read_all": read_all,
    "write_5": write_share(0.05),
    "write_all": write_share(1.0),
}


def op(name: str) -> Callable[[Heap], int]:
    """The work called `name`; `write:0.25` writes that share, `call:module:function:text` calls it."""
    if name.startswith("call:"):
        _, module, function, text = name.split(":", 3)
        return lambda _heap: bool(getattr(importlib.import_module(module), function)(text))
    if name.startswith("write:"):
        return write_share(float(name.partition(":")[2]))
    return OPS[name]


def names() -> Sequence[str]:
    return tuple(OPS)
