"""Programs whose copies are known: python -m tests.observed WORK forks once, and the child does it."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable

PAGES = 1024
PAGE = 4096
OBJECTS = 60_000

buffer = bytearray(PAGE * PAGES)
buffer[::PAGE] = b"1" * PAGES
into = bytearray(PAGE * PAGES)
into[::PAGE] = b"1" * PAGES
types: list[type] = [int] * (512 * PAGES)
LONG = "def long(value):\n" + "    value = value + 1\n" * 20_000
exec(LONG)
pairs = [(number, number) for number in range(OBJECTS)]


class Node:
    """An object with a dict: three blocks, two of them with gc headers."""

    def __init__(self, number: int) -> None:
        self.number = number


nodes = [Node(number) for number in range(OBJECTS // 4)]


def write_buffer() -> None:
    for start in range(0, len(buffer), PAGE):
        buffer[start] = 2


def read_pairs() -> None:
    for _pair in pairs:
        pass


def collect() -> None:
    gc.collect()


def read_into() -> None:
    with open("/dev/zero", "rb", buffering=0) as file:
        file.readinto(into)


def set_numbers() -> None:
    for node in nodes:
        node.number = -1


def in_threads() -> None:
    threads = [threading.Thread(target=write_part, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def write_part(part: int) -> None:
    for start in range(part * PAGE, len(buffer), 4 * PAGE):
        buffer[start] = 2


def store_types() -> None:
    for start in range(0, len(types), 512):
        types[start] = float
    for _ in range(12):  # 3.11 adapts a function at its eighth call
        globals()["long"](1.5)


def nothing() -> None:
    pass


def die() -> None:
    write_buffer()
    os.kill(os.getpid(), 9)


WORKS: dict[str, Callable[[], None]] = {
    each.__name__: each
    for each in (
        write_buffer,
        read_pairs,
        collect,
        read_into,
        set_numbers,
        in_threads,
        store_types,
        nothing,
        die,
    )
}


def main(work: str) -> int:
    pid = os.fork()
    if pid == 0:
        WORKS[work]()
        os._exit(0)
    os.waitpid(pid, 0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
