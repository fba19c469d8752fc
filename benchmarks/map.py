"""How long `clonal.sharing` takes for a family of 10 processes of 1 GB each, and what it finds there.

    python benchmarks/map.py [--processes 10] [--size 1G] [--rounds 5]

The parent has written its memory, in 4 KiB pages; child n has copied n % of it. The family is read from
another process, as `clonal map` does. Prints the best and the median time, with the machine.
"""

from __future__ import annotations

import argparse
import mmap
import os
import statistics
import time

import where

from clonal.observe.sharing import FamilySharing, sharing
from clonal.report.words import parse_size

PAGE = mmap.PAGESIZE


def family(processes: int, size: int) -> int:
    """Starts it; returns when it is ready, with the parent's number. It ends when this process does."""
    ready, done = os.pipe()
    hold, held = os.pipe()
    pid = os.fork()
    if pid:
        os.close(done)
        os.close(hold)
        for _ in range(processes):
            os.read(ready, 1)
        return pid
    os.close(held)
    area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_NOHUGEPAGE)
    _write(area, size)
    for number in range(1, processes):
        if os.fork() == 0:
            _write(area, size * min(number, 100) // 100)
            break
    os.write(done, b"x")
    os.read(hold, 1)
    os._exit(0)


def _write(area: mmap.mmap, size: int) -> None:
    for at in range(0, size, PAGE):
        area[at] = 1


def measured(pid: int, rounds: int) -> tuple[list[float], FamilySharing]:
    """Seconds of each round, and what the last one found."""
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        found = sharing(pid)
        times.append(time.perf_counter() - begun)
    return times, found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=10)
    parser.add_argument("--size", default="1G")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    pid = family(arguments.processes, parse_size(arguments.size, "--size"))
    times, found = measured(pid, arguments.rounds)
    taken = "(not known)" if found.distinct is None else f"{sum(found.distinct.values()) / 1e9:.2f} GB"
    print(
        f"{len(found.members)} processes, {found.total.present / 1e9:.2f} GB mapped, {taken} in all, "
        f"by {found.method}: {min(times):.2f} s at best, "
        f"{statistics.median(times):.2f} s in the middle of {len(times)}"
    )
    where.tell()


if __name__ == "__main__":
    main()
