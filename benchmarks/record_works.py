"""Programs that copy pages in known places: python record_works.py WORK FOLDER forks once.

The child says in FOLDER what it is about to write to, waits, does it, and waits again, so that its page map
can be read before and after.
"""

from __future__ import annotations

import array
import collections
import ctypes
import gc
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

PAGE, POOL = 4096, 1 << 14
Range = tuple[int, int]


class Work(NamedTuple):
    """What the child does, and where: no range means all anonymous memory. `full`: numbers of the pages that
    hold nothing but what the work is about."""

    act: Callable[[], Any]
    ranges: Sequence[Range] = ()
    full: Sequence[int] = ()


def full(objects: Sequence[Any]) -> Sequence[int]:
    """Pages with as many of these objects as have room there."""
    counts = collections.Counter(id(each) // PAGE for each in objects)
    most = max(counts.values())
    return [page for page, count in counts.items() if count >= 0.95 * most]


class Node:
    """An object with a dict or inline values."""

    def __init__(self, number: int) -> None:
        self.number = number


def read_all(objects: Sequence[Any]) -> Work:
    """The reference count of each."""

    def read() -> None:
        for _each in objects:
            pass

    return Work(read, full=full(objects))


def collect(objects: Sequence[Any], more: Callable[[Any], Any] | None = None) -> Work:
    """The gc header of each, and of what each has."""
    pages = full([*objects, *map(more, objects)] if more else objects)

    def look() -> None:
        gc.collect()
        assert objects

    return Work(look, full=pages)


def whole(address: int, size: int) -> Sequence[Range]:
    """The pages that lie in it altogether."""
    return [(-(-address // PAGE) * PAGE, (address + size) // PAGE * PAGE)]


def at(buffer: Any) -> int:
    return ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))


def filled(size: int) -> bytearray:
    made = bytearray(size)
    made[::PAGE] = b"1" * len(range(0, size, PAGE))
    return made


def write_bytearray() -> Work:
    buffer = filled(4096 * PAGE)

    def write() -> None:
        for start in range(0, len(buffer), PAGE):
            buffer[start] = 2

    return Work(write, whole(at(buffer), len(buffer)))


def write_numpy() -> Work:
    import numpy as np

    table = np.ones(4096 * PAGE // 8)

    def write() -> None:
        table[:] = 2

    return Work(write, whole(table.ctypes.data, table.nbytes))


def write_slots() -> Work:
    slots: list[object] = [None] * (4096 * PAGE // 8)
    address = ctypes.c_ssize_t.from_address(id(slots) + 24).value

    def write() -> None:
        for index in range(0, len(slots), PAGE // 8):
            slots[index] = True

    return Work(write, whole(address, len(slots) * 8))


def read_into() -> Work:
    buffer = filled(4096 * PAGE)
    source = open("/dev/zero", "rb", buffering=0)  # noqa: SIM115

    def read() -> None:
        source.readinto(buffer)

    return Work(read, whole(at(buffer), len(buffer)))


def write_data() -> Work:
    """The .data of a library, which is the file's until it is written."""
    library = ctypes.CDLL(os.environ["RECORD_WORKS_LIBRARY"])
    size = ctypes.c_long.in_dll(library, "table_size").value
    address = ctypes.addressof(ctypes.c_char.in_dll(library, "table"))
    library.write_table.restype = None

    def write() -> None:
        library.write_table()

    return Work(write, whole(address, size))


def free_some() -> Work:
    """One object in each pool, not on the page of the pool's header: its count is written, and the header."""
    objects: list[Any] = [bytes([i & 255, i >> 8]) * 20 for i in range(60_000)]
    pools = {id(each) // POOL: index for index, each in enumerate(objects) if id(each) % POOL > PAGE}
    indices = array.array("l", pools.values())
    pages = [id(objects[index]) // PAGE for index in indices]

    def free() -> None:
        for index in indices:
            objects[index] = None

    return Work(free, full=[*pages, *(page // 4 * 4 for page in pages)])


def first_calls() -> Work:
    """Long functions: behind its first page, a code object is instructions that adapt when they run."""
    body = "    value = value + 1\n" * 2000
    names: dict[str, Any] = {}
    for number in range(40):
        exec(f"def call{number}(value):\n{body}", names)
    calls = [value for name, value in names.items() if name.startswith("call")]
    ranges = [r for call in calls for r in whole(id(call.__code__) + 512, len(call.__code__.co_code) - 512)]

    def run() -> None:
        for call in calls * 12:  # 3.11 adapts a function at its eighth call
            call(1.5)

    return Work(run, ranges)


COUNT = 250_000
WORKS: dict[str, Callable[[], Work]] = {
    "float": lambda: read_all([float(i) for i in range(COUNT)]),
    "str": lambda: read_all([f"{i:012}" for i in range(COUNT)]),
    "tuple": lambda: read_all([(i, None) for i in range(COUNT)]),
    "instance": lambda: read_all([Node(1) for _ in range(COUNT // 2)]),
    "gc list": lambda: collect([[None] for _ in range(COUNT)]),
    "gc dict": lambda: collect([{"key": []} for _ in range(COUNT // 4)], lambda each: each["key"]),
    "gc instance": lambda: collect([Node(1) for _ in range(COUNT // 2)]),
    "free": free_some,
    "first call": first_calls,
    "bytearray": write_bytearray,
    "numpy": write_numpy,
    "list slots": write_slots,
    "readinto": read_into,
    ".data": write_data,
}


def main(name: str, folder: str) -> int:
    work = WORKS[name]()
    gc.collect()
    told = " ".join(f"{start:x}-{end:x}" for start, end in work.ranges)
    with open(f"{folder}/full", "wb") as file:
        array.array("q", work.full).tofile(file)
    pid = os.fork()
    if pid == 0:
        step(folder, "ready", f"{os.getpid()} {told}")
        work.act()
        step(folder, "done", "")
        os._exit(0)
    os.waitpid(pid, 0)
    return 0


def step(folder: str, name: str, text: str) -> None:
    """Says it, and waits until the other side has looked."""
    with open(f"{folder}/{name}", "w") as file:
        file.write(text)
    with open(f"{folder}/{name}-go") as file:
        file.read()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
