"""How fast a heap becomes immortal, in objects per second: the walk alone, with hashing, and again.

    python benchmarks/immortal.py [objects, 3000000 by default]

Each round is a fresh process, for a heap becomes immortal only once. `freeze again` is a second freeze
with nothing new: a sweep over the collector's objects. Seconds are those of the thread's CPU time, so
that a busy machine changes the result less; the wall clock is shown beside it.
"""

from __future__ import annotations

import gc
import platform
import statistics
import subprocess
import sys
import time

from clonal.image import heap

ROUNDS = 5
WARM: list[object] = []


class Record:
    """An instance with attributes, as services hold by the million."""

    def __init__(self, i: int) -> None:
        self.number = i + 10**6
        self.text = f"record {i}"


def build(objects: int) -> None:
    """Dictionaries, lists, instances, strings and numbers: about `objects` in all."""
    WARM.extend({"id": i + 10**6, "text": str(i) * 2, "tags": [str(i)]} for i in range(objects // 10))
    WARM.extend(Record(i) for i in range(objects // 6))


def freeze(*without: str) -> tuple[int, float, float]:
    """Objects marked, CPU seconds, wall seconds."""
    wall, start = time.perf_counter(), time.thread_time()
    report = heap.prepare(without=["collect", "flush", "pools", "trim", *without])
    return report.immortal_objects, time.thread_time() - start, time.perf_counter() - wall


def once(objects: int, *without: str) -> None:
    """One round: prints objects marked, then CPU and wall seconds of the freeze and of a second one."""
    build(objects)
    heap.why_not_immortal()
    gc.collect()
    marked, *first = freeze(*without)
    _, *second = freeze(*without)
    print(marked, *first, *second)


def rounds(objects: int, *without: str) -> list[list[float]]:
    command = [sys.executable, __file__, str(objects), "once", *without]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(ROUNDS)]
    return [[float(number) for number in run.stdout.split()] for run in runs]


def line(name: str, count: float, cpu: list[float], wall: list[float]) -> str:
    rates = sorted(count / each / 1e6 for each in cpu)
    rate = f"{statistics.median(rates):6.1f} M objects/s ({rates[0]:.1f} to {rates[-1]:.1f})"
    return f"{name:16} {rate:38} wall {statistics.median(wall) * 1e3:.0f} ms"


def processor() -> str:
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return f"{len(names)} × {names[0]}" if names else platform.machine()


def main() -> None:
    objects = int(sys.argv[1]) if len(sys.argv) > 1 else 3_000_000
    if "once" in sys.argv:
        once(objects, *sys.argv[3:])
        return
    if reason := heap.why_not_immortal():
        sys.exit(f"nothing to measure: {reason}")
    print(f"CPython {platform.python_version()}, Linux {platform.release()}, {processor()}")
    plain, hashing = rounds(objects, "hashes"), rounds(objects)
    count = plain[0][0]
    print(f"{count:,.0f} objects, {ROUNDS} rounds, median (range)")
    print(line("walk", count, [each[1] for each in plain], [each[2] for each in plain]))
    print(line("walk and hashes", count, [each[1] for each in hashing], [each[2] for each in hashing]))
    print(line("freeze again", count, [each[3] for each in plain], [each[4] for each in plain]))


if __name__ == "__main__":
    main()
