"""How fast the model is: clones of one process, each writing a random share of its heap, page-exact.

    python benchmarks/model.py [CLONES]

Exits 1 if a page is lost. The figures to reach: 1,000 clones of 700 MB in 10 s and 2 GB, 5 M faults a second.
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np

from clonal.kernel.machine import machine, sentence
from clonal.model import PAGE, Config, Faults, Machine, Map, Prot

HEAP, CODE = 500 << 20, 200 << 20
LARGE = 2 << 30
SHARE = 0.05


def main(clones: int) -> int:
    """Measures and prints."""
    filled, fill_seconds = min((fill() for _ in range(5)), key=lambda each: each[1])
    model = Machine(Config(ram=64 << 30))
    server = model.spawn()
    heap = server.mmap(HEAP)
    code = server.mmap(CODE, Prot.READ, Map.PRIVATE, model.file(CODE // PAGE))
    server.write(heap, HEAP)
    server.read(code, CODE)
    random = np.random.default_rng(1)
    pages = HEAP // PAGE

    def clone_all() -> Faults:
        made = Faults()
        for _ in range(clones):
            made += server.fork().touch(
                random.choice(pages, round(pages * SHARE), replace=False) + heap // PAGE
            )
        return made

    written, seconds = timed(clone_all)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(sentence(machine()))
    size = (HEAP + CODE) >> 20
    print(f"{clones:,} clones of {size} MiB, each writing a random {SHARE:.0%} of {HEAP >> 20} MiB:")
    print(f"  {written.copied:,} pages copied in {seconds:.2f} s, {peak / 1e9:.2f} GB")
    print(f"  {filled.minor / fill_seconds / 1e6:.1f} M faults a second in {LARGE >> 20} MiB, at best")
    return 0 if written.copied == clones * round(pages * SHARE) else 1


def fill() -> tuple[Faults, float]:
    """First writes to a large range, in a process of a machine of its own."""
    process = Machine(Config(ram=2 * LARGE)).spawn()
    start = process.mmap(LARGE)
    return timed(lambda: process.write(start, LARGE))


def timed(work: object) -> tuple[Faults, float]:
    """What `work` returns, and the seconds it took."""
    assert callable(work)
    started = time.perf_counter()
    made = work()
    return made, time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
