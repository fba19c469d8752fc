"""What `clonal record` finds of programs whose copies are known, and what it costs.

    python benchmarks/record.py [--pairs 30] [--store]

As root prints, for each way to record, pages attributed ÷ pages copied and how many of them have the right
cause and type (record_accuracy.py); then the cost of a recorded copy, and how much slower a process is that
takes no faults. --store writes results/record.md. Exits 1 if a figure is beyond what is promised.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from record_accuracy import BACKENDS, RIGHT, Backend, Result, results

from clonal import _native
from clonal.kernel.machine import busy, machine, sentence
from clonal.observe.record import bpf, trap

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results" / "record.md"
COUNTS = ("float", "gc list", "numpy", "bytearray", "readinto", ".data")
NAMES = {"float": "reference counts", "gc list": "gc", "readinto": "kernel `readinto`", ".data": "`.data`"}
OFF, WRONG, COST, SLOWER = 0.02, 0.02, 8_000, 0.01
ROUNDS = 15
NOTES = (
    "Truth is the page map of the program's child, read from outside before and after its work, with",
    "frame numbers. Of objects every page that was copied meanwhile counts, whoever wrote it; of buffers",
    "and `.data`, their own. A snapshot has no times: it also has the ten pages that the child copies on",
    "its way out. Judged are pages that hold nothing but what the work is about. Times are CPU time; of",
    "four in the order A B B A the second and third are recorded.",
    "",
)
SPIN = """
import os, sys, time
def spin():
    total = 0
    for number in range(2_000_000):
        total += number & 7
    return total
pid = os.fork()
if pid == 0:
    spin()
    start = time.process_time_ns()
    spin()
    with open(sys.argv[1], "w") as file:
        file.write(str(time.process_time_ns() - start))
    os._exit(0)
os.waitpid(pid, 0)
"""


def spin() -> int:
    total = 0
    for number in range(1_000_000):
        total += number & 7
    return total


# ---- a process that takes no faults ----


def abba(plain: Callable[[], float], recorded: Callable[[], float], pairs: int) -> list[float]:
    """How much slower the second is, of each pair of pairs taken in the order A B B A."""
    found = []
    for _ in range(pairs):
        a, b, c, d = plain(), recorded(), recorded(), plain()
        found.append((b + c) / (a + d) - 1)
    return found


def in_one_process(pairs: int) -> list[float]:
    """Recording switched on and off in the same process: nothing else differs."""
    size = 64 << 20
    heap = bytearray(size)
    heap[::4096] = b"1" * (size // 4096)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        spin()
        found = abba(lambda: timed(False), lambda: timed(True), pairs)
        os.write(writer, " ".join(map(str, found)).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as file:
        found = [float(word) for word in file.read().split()]
    os.waitpid(pid, 0)
    return found


def timed(armed: bool) -> float:
    if armed:
        _native.trap_start(signal.SIGRTMAX - 3, True)
    spin()
    start = time.thread_time_ns()
    spin()
    taken = time.thread_time_ns() - start
    if armed:
        _native.trap_stop(False)
    return taken


def in_two(backend: str, pairs: int, folder: Path) -> list[float]:
    """A program of its own each time, started as it is, or by `clonal record`."""
    program, out = folder / "spin.py", folder / "out"
    program.write_text(SPIN)
    command = [sys.executable, str(program), str(out)]
    record = [sys.executable, "-m", "clonal", "record", "--backend", backend, "-o", str(folder / "spin.rec")]

    def run(words: Sequence[str]) -> float:
        subprocess.run(words, check=True, stderr=subprocess.DEVNULL)
        return float(out.read_text())

    return abba(lambda: run(command), lambda: run([*record, "--", *command]), pairs)


def middle(found: Sequence[float]) -> str:
    low, half, high = statistics.quantiles(found, n=4)
    return f"{half:+.2%} (quartiles {low:+.2%} … {high:+.2%} of {len(found)} A B B A)"


# ---- tables ----


def accuracy(found: Sequence[tuple[Backend, list[Result]]]) -> Iterator[str]:
    yield "| pages attributed ÷ copied | " + " | ".join(NAMES.get(work, work) for work in COUNTS) + " |"
    yield "| --- |" + " --- |" * len(COUNTS)
    for way, works in found:
        by_name = {each.work: each for each in works}
        yield f"| {way.name} | " + " | ".join(ratio(by_name[work]) for work in COUNTS) + " |"
    yield ""
    yield (
        "| cause and type right, of pages judged | " + " | ".join(way.name for way, _ in traced(found)) + " |"
    )
    yield "| --- |" + " --- |" * len(list(traced(found)))
    for number, work in enumerate(RIGHT):
        causes = ", ".join(sorted({cause for cause, _ in RIGHT[work]}))
        cells = (rightly(works[number]) for _, works in traced(found))
        yield f"| {work}: {causes} | " + " | ".join(cells) + " |"


def traced(found: Sequence[tuple[Backend, list[Result]]]) -> Iterator[tuple[Backend, list[Result]]]:
    return ((way, works) for way, works in found if way.backend != "snapshot")


def ratio(result: Result) -> str:
    return f"{result.attributed / result.truth:.4f}" + (f" of {result.truth:,}" if result.truth else "")


def rightly(result: Result) -> str:
    return f"{result.right / max(result.judged, 1):.2%} of {result.judged:,}"


def holds(found: Sequence[tuple[Backend, list[Result]]]) -> bool:
    return all(
        abs(each.attributed / each.truth - 1) <= OFF
        and abs(each.matched / each.truth - 1) <= OFF
        and each.right >= (1 - WRONG) * each.judged
        for _, works in found
        for each in works
    )


def ways() -> Iterator[Backend]:
    """Those that this machine allows; why not, of the others."""
    for way in BACKENDS:
        try:
            if way.backend == "bpf":
                bpf.require()
            elif way.backend == "sigtrap":
                trap.require()
        except trap.CannotRecord as error:
            print(f"{way.name}: left out: {error}", file=sys.stderr)
        else:
            yield way


def costs(pairs: int) -> tuple[list[str], bool]:
    each = statistics.median(trap.cost() for _ in range(ROUNDS))
    slower = in_one_process(pairs)
    bpf_too = any(way.backend == "bpf" for way in ways())
    by_kernel = (
        f", by bpf {statistics.median(bpf.cost() for _ in range(ROUNDS)) / 1000:.2f} µs" if bpf_too else ""
    )
    lines = [
        f"- A recorded copy takes {each / 1000:.2f} µs more by sigtrap{by_kernel}.",
        f"- A process that takes no faults, sigtrap on and off in it, is slower by {middle(slower)}.",
    ]
    with tempfile.TemporaryDirectory(prefix="clonal-") as name:
        for backend in ("sigtrap", "bpf")[: 1 + bpf_too]:
            whole = middle(in_two(backend, pairs, Path(name)))
            lines.append(f"- A program, beside the same recorded by {backend}, is slower by {whole}.")
    return lines, each <= COST and statistics.median(slower) <= SLOWER


def main() -> int:
    """Measures, prints, stores."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--store", action="store_true", help=f"write {RESULTS.name}")
    arguments = parser.parse_args()
    noisy = busy()
    os.environ["PYTHONPATH"] = f"{ROOT / 'src'}:{ROOT}"
    lines, good = costs(arguments.pairs)
    found = []
    if os.geteuid() == 0:
        found = list(results(list(RIGHT), list(ways())))
        good = good and holds(found)
    else:
        print("accuracy: left out: the truth needs frame numbers, which are shown to root", file=sys.stderr)
    head = ["# What `clonal record` finds, and what it costs", "", f"{sentence(machine())}.", ""]
    text = "\n".join(
        [*head, *NOTES, *([f"Warning: {noisy}", ""] if noisy else []), *accuracy(found), "", *lines]
    )
    print(text)
    if arguments.store:
        RESULTS.write_text(text + "\n", "utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
