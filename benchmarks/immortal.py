"""How fast a heap becomes immortal, in objects per second: the walk alone, with hashing, and again.

    python benchmarks/immortal.py [objects, 3000000 by default]

Each round is a fresh process, for a heap becomes immortal only once. `again` is a second freeze with
nothing new: a sweep over the collector's objects.
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


def freeze(*without: str) -> tuple[int, float]:
    start = time.perf_counter()
    report = heap.prepare(without=["collect", "flush", "pools", "trim", *without])
    return report.immortal_objects, time.perf_counter() - start


def once(objects: int) -> None:
    """One round: prints objects marked, seconds of the walk, of hashing, of a second freeze."""
    build(objects)
    heap.why_not_immortal()
    gc.collect()
    marked, walk = freeze("hashes")
    _, again = freeze("hashes")
    print(marked, walk, again)


def hashed(objects: int) -> None:
    """One round with hashes: prints objects marked and seconds."""
    build(objects)
    heap.why_not_immortal()
    gc.collect()
    print(*freeze())


def rounds(mode: str, objects: int) -> list[list[float]]:
    command = [sys.executable, __file__, mode, str(objects)]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(ROUNDS)]
    return [[float(number) for number in run.stdout.split()] for run in runs]


def line(name: str, count: float, seconds: list[float]) -> str:
    rates = sorted(count / each / 1e6 for each in seconds)
    spread = f"{rates[0]:.1f} to {rates[-1]:.1f}"
    return f"{name:24} {statistics.median(rates):6.1f} M objects/s   ({spread}; {min(seconds) * 1e3:.0f} ms)"


def processor() -> str:
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return f"{len(names)} × {names[0]}" if names else platform.machine()


def main() -> None:
    if len(sys.argv) == 3:
        {"once": once, "hashed": hashed}[sys.argv[1]](int(sys.argv[2]))
        return
    if reason := heap.why_not_immortal():
        sys.exit(f"nothing to measure: {reason}")
    objects = int(sys.argv[1]) if len(sys.argv) > 1 else 3_000_000
    print(f"CPython {platform.python_version()}, Linux {platform.release()}, {processor()}")
    plain, hashing = rounds("once", objects), rounds("hashed", objects)
    count = plain[0][0]
    print(f"{count:,.0f} objects, {ROUNDS} rounds, median (range; best)")
    print(line("walk", count, [walk for _, walk, _ in plain]))
    print(line("walk and hashes", count, [seconds for _, seconds in hashing]))
    print(line("freeze again", count, [again for *_, again in plain]))


if __name__ == "__main__":
    main()
