"""Forking from a clone that has run: it read everything and wrote a little, then forks itself."""

from __future__ import annotations

import os
import struct

from clonal.bench.clock import now
from clonal.bench.heap import HEAP
from clonal.bench.launchers import reap
from clonal.bench.work import op


def generation(count: int, work: list[str], again: bool = False) -> list[int]:
    """A clone does `work`, then forks `count` children; the time of each fork call in nanoseconds.

    `again`: it freezes again before, as `Template.here()` does in a clone.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            for name in work:
                op(name)(HEAP)
            if again:
                import clonal

                clonal.freeze()
            os.write(writer, struct.pack(f"{count}q", *(time_fork() for _ in range(count))))
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        data = file.read()
    reap(pid)
    return list(struct.unpack(f"{count}q", data))


def time_fork() -> int:
    start = now()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    elapsed = now() - start
    reap(pid)
    return elapsed
