"""A realistic warm heap: Python records (dicts of ints, strings and lists) beside raw buffers.

`warm()` builds it into the module, which is what a template's setup, a forkserver's preload and a
forked parent have in common.
"""

from __future__ import annotations

import gc
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PAGE = os.sysconf("SC_PAGESIZE")
BUFFERS = 16  # a bigger heap has bigger buffers, not more: what a mapping costs is a figure of its own
ENVIRONMENT = "CLONAL_BENCH_HEAP"


class Heap:
    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.buffers: list[bytearray] = []
        self.mappings: list[Any] = []  # nothing but more of them

    @property
    def size(self) -> int:
        return sum(map(len, self.buffers))


HEAP = Heap()


def resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * PAGE


def record(number: int) -> dict[str, Any]:
    return {
        "id": number,
        "name": f"record {number}",
        "tags": [number % 7, number + 1000, f"tag{number % 4096}"],
        "price": number * 0.25,
    }


def build_records(heap: Heap, size: int) -> None:
    """Adds records until they take `size` bytes of memory, whatever this interpreter needs for one."""
    start = resident()
    while resident() - start < size:
        first = len(heap.records)
        heap.records.extend(record(number) for number in range(first, first + 2000))


def build_buffers(heap: Heap, size: int) -> None:
    length = size // BUFFERS // PAGE * PAGE
    pattern = bytes(range(1, 256)) * (PAGE // 255 + 1)
    for _ in range(BUFFERS if length else 0):
        buffer = bytearray(length)
        for start in range(0, length, PAGE):
            buffer[start : start + PAGE] = pattern[:PAGE]
        heap.buffers.append(buffer)


def warm(size: int | None = None, objects: float | None = None) -> Heap:
    """Builds the heap of this process; without arguments as the environment says."""
    if HEAP.records or HEAP.buffers:
        return HEAP
    if size is None or objects is None:
        asked, share, mappings = os.environ.get(ENVIRONMENT, "0 0.5 0").split()
        size, objects = int(asked), float(share)
        if int(mappings):
            from clonal.bench.memory import add_mappings  # with ctypes: more mappings than a bare heap has

            HEAP.mappings = add_mappings(int(mappings))
    gc.disable()  # building creates no garbage, and collections over millions of records take minutes
    build_records(HEAP, int(size * objects))
    build_buffers(HEAP, size - int(size * objects))
    gc.enable()
    return HEAP


def describe(spec: dict[str, Any]) -> str:
    """The value of the environment variable that `warm()` reads."""
    return f"{spec['size']} {spec['objects']} {spec.get('mappings', 0)}"
