"""What `clonal record` finds of programs whose copies are known, and what it costs.

    python benchmarks/record.py

Prints pages attributed ÷ pages written for each program, the cost of a recorded copy, and how much slower a
process is that takes no faults. Exits 1 if a figure is beyond what is promised.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from clonal.kernel.machine import busy, machine, sentence
from clonal.observe.analyse import Copy, load
from clonal.observe.record import trap
from clonal.observe.record.run import record

ROOT = Path(__file__).resolve().parent.parent
PAGES = 1024  # of tests/observed.py
OFF = 0.02
COST = 8_000  # ns
SLOWER = 0.01
ROUNDS = 7
SPIN = """
import os, time
def spin():
    total = 0
    for number in range(3_000_000):
        total += number & 7
    return total
pid = os.fork()
if pid == 0:
    spin()
    start = time.perf_counter()
    spin()
    os.write(1, f"{time.perf_counter() - start}\\n".encode())
    os._exit(0)
os.waitpid(pid, 0)
"""


def attributed(work: str, path: Path) -> int:
    """Copies that the program's child is known to make, as they were recorded."""
    record([sys.executable, "-m", "tests.observed", work], path)
    found = load(path)
    [pid] = [process.pid for process in found.processes.values() if process.generation == 1]
    return sum(_wanted(copy, work) for copy in found.by_program if copy.pid == pid)


def _wanted(copy: Copy, work: str) -> bool:
    if work == "read_into":
        return copy.library == "kernel" and copy.category == "large buffers"
    return copy.cause == "data" and copy.frame.function in (work, "write_part")


def spin(recorded: bool, folder: Path) -> float:
    """Seconds of a loop that touches no new page."""
    program, out = folder / "spin.py", folder / "out"
    program.write_text(SPIN)
    with out.open("wb") as file:
        saved = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            if recorded:
                record([sys.executable, str(program)], folder / "spin.rec")
            else:
                subprocess.run([sys.executable, str(program)], check=True)
        finally:
            os.dup2(saved, 1)
            os.close(saved)
    return float(out.read_text())


def main() -> int:
    """Measures and prints."""
    trap.require()
    os.chdir(ROOT)
    print(sentence(machine()))
    if noisy := busy():
        print(f"Warning: {noisy}")
    good = True
    with tempfile.TemporaryDirectory(prefix="clonal-") as name:
        folder = Path(name)
        for work in ("write_buffer", "in_threads", "read_into"):
            ratio = attributed(work, folder / "r.rec") / PAGES
            good = good and abs(ratio - 1) <= OFF
            print(f"{work:14} {ratio:.4f} of the pages written were attributed")
        each = statistics.median(trap.cost() for _ in range(ROUNDS))
        times = [(spin(False, folder), spin(True, folder)) for _ in range(ROUNDS)]
    slower = min(after for _, after in times) / min(before for before, _ in times) - 1
    print(
        f"a recorded copy takes {each / 1000:.2f} µs more; a process without faults is {slower:+.2%} slower"
    )
    return 0 if good and each <= COST and slower <= SLOWER else 1


if __name__ == "__main__":
    started = time.perf_counter()
    status = main()
    print(f"{time.perf_counter() - started:.0f} s")
    sys.exit(status)
