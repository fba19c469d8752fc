"""Round trip of `clone(noop).result()` against a minimal C program's fork + pipe round trip.

    python benchmarks/roundtrip.py [ROUNDS] [--preload MODULE …]

The three ways take turns, so that a noisy machine disturbs all alike; compare the ratios.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import clonal

BATCH = 20


def noop() -> None:
    """What the clone does."""


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rounds", type=int, nargs="?", default=20, help="batches of 20 of each kind")
    parser.add_argument("--preload", nargs="*", default=[])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        floor = _build_floor(folder)
        with clonal.Template(given.preload) as plain, clonal.Template(given.preload, standby=1) as ready:
            kinds: dict[str, Callable[[], list[float]]] = {
                "C fork + pipe": lambda: _floor(floor),
                "on demand": lambda: _clones(plain),
                "standby": lambda: _clones(ready),
            }
            times: dict[str, list[float]] = {name: [] for name in kinds}
            for number in range(given.rounds + 1):
                for name, measure in kinds.items():
                    batch = measure()
                    times[name] += batch if number else []
            _show(times)
            print(plain.stats())


def _build_floor(folder: str) -> str:
    program = os.path.join(folder, "floor")
    source = Path(__file__).with_name("floor.c")
    subprocess.run([os.environ.get("CC", "cc"), "-O2", "-o", program, str(source)], check=True)
    return program


def _floor(program: str) -> list[float]:
    output = subprocess.run([program, str(BATCH)], check=True, capture_output=True, text=True).stdout
    return [float(line) for line in output.split()]


def _clones(template: clonal.Template) -> list[float]:
    times = []
    for _ in range(BATCH):
        while template._plan.standby > template.stats().standby_ready:
            time.sleep(0.001)
        start = time.perf_counter()
        clone = template.clone(noop)
        clone.result()
        times.append((time.perf_counter() - start) * 1e6)
        clone.wait()
    return times


def _show(times: dict[str, list[float]]) -> None:
    print(f"{platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}")
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        low, _, high = statistics.quantiles(values, n=4)
        print(f"{name:14} {medians[name]:7.0f} µs (quartiles {low:.0f}-{high:.0f})")
    print(f"on demand ÷ C       {medians['on demand'] / medians['C fork + pipe']:.2f}")
    print(f"standby ÷ on demand {medians['standby'] / medians['on demand']:.2f}")


if __name__ == "__main__":
    main()
