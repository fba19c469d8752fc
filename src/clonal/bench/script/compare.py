"""The four strategies on one script: timed in interleaved rounds, then measured eight at a time."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO

from clonal.bench.script.gate import Gate
from clonal.bench.script.job import Job
from clonal.bench.script.strategies import Strategy, Timing
from clonal.kernel import memory, procfs
from clonal.report import table

WORKERS = 8
COLD_SECONDS = 8.0  # cold runs stop when they have taken this long together


@dataclass
class Row:
    """What was measured of one strategy; sizes in bytes, times in seconds."""

    name: str
    timings: list[Timing] = field(default_factory=list)
    private: int | None = None  # median of the held runs
    held: int = 0  # runs alive at once when memory was measured
    ram: int | None = None  # at WORKERS runs; scaled from `held` where that is less

    @property
    def start(self) -> float | None:
        """Median seconds from the call to the script's first line."""
        return _median([timing.start for timing in self.timings if timing.start is not None])

    @property
    def finish(self) -> float | None:
        """Median seconds from the call to the end seen by the caller."""
        return _median([timing.finish for timing in self.timings])

    @property
    def failed(self) -> int:
        return sum(timing.exitcode != 0 for timing in self.timings)

    def to_json(self) -> dict[str, object]:
        return {
            "strategy": self.name,
            "runs": len(self.timings),
            "failed": self.failed,
            "start_s": self.start,
            "finish_s": self.finish,
            "private_bytes": self.private,
            "workers": WORKERS,
            "workers_measured": self.held,
            "ram_bytes": self.ram,
        }


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def compare(
    strategies: Sequence[Strategy],
    job: Job,
    rounds: int,
    image_bytes: int = 0,
    tick: Callable[[str], None] = lambda name: None,
) -> list[Row]:
    """Time `rounds` runs of each strategy, one after the other in turn, then measure memory.
    `tick` is called after each run with the strategy's name."""
    rows = {strategy.name: Row(strategy.name) for strategy in strategies}
    for index in range(rounds):
        for strategy in strategies:
            row = rows[strategy.name]
            if strategy.name == "cold" and sum(timing.finish for timing in row.timings) > COLD_SECONDS:
                continue
            row.timings.append(strategy.run(job.numbered(index)))
            tick(strategy.name)
    for strategy in strategies:
        measure(strategy, job, rows[strategy.name], image_bytes if strategy.name == "clone" else 0)
        tick(strategy.name)
    return list(rows.values())


def measure(strategy: Strategy, job: Job, row: Row, image_bytes: int) -> None:
    """Hold WORKERS runs at their end, all alive, and read what each holds alone and all together."""
    count = WORKERS if strategy.name != "cold" else _affordable(strategy, job, _patience(row))
    with Gate() as gate:
        batch = strategy.start([job.numbered(index, gate.name) for index in range(count)])
        pids = _gather(gate, count, _patience(row))
        if len(pids) == count:
            row.held = count
            row.private = int(statistics.median(procfs.private_bytes(pid) for pid in pids))
            row.ram = family_ram([*strategy.processes(), *pids], image_bytes) * WORKERS // count
    batch.wait()


def _patience(row: Row) -> float:
    """Seconds within which a further run should come: eight at once take longer than one."""
    return 10.0 + 4 * WORKERS * max((timing.finish for timing in row.timings), default=0.0)


def _affordable(strategy: Strategy, job: Job, patience: float) -> int:
    """How many cold runs may be alive at once: they share nothing, so one is measured first."""
    with Gate() as gate:
        batch = strategy.start([job.numbered(0, gate.name)])
        need = sum(procfs.private_bytes(pid) for pid in _gather(gate, 1, patience))
    batch.wait()
    return max(1, min(WORKERS, int(memory.meminfo()["MemAvailable"] * 0.6) // max(need, 1)))


def _gather(gate: Gate, count: int, patience: float) -> list[int]:
    """The pids of the runs that reached the gate; fewer where some died on the way."""
    pids: list[int] = []
    while len(pids) < count:
        try:
            pids.append(gate.arrive(patience))
        except TimeoutError:
            break
    return pids


def family_ram(pids: Sequence[int], image_bytes: int = 0) -> int:
    """RAM that these processes take together, each page counted once.

    Proportional shares, but an image counts in full: it is in RAM where no process maps it too.
    """
    total = 0
    shared_memory = 0
    for pid in pids:
        try:
            rollup = procfs.smaps_rollup(pid)
        except ProcessLookupError:
            continue
        total += rollup.get("Pss", 0) - rollup.get("Pss_Shmem", 0)
        shared_memory += rollup.get("Pss_Shmem", 0)
    return total + max(shared_memory, image_bytes)


LEGEND = (
    "start: call to the script's first line; finished: call to the end seen by the caller (medians);\n"
    "private: anonymous memory the run alone maps at its end; RAM: all {workers} runs and what they share."
)


def to_json(script: str, rows: Sequence[Row]) -> dict[str, object]:
    """The comparison as data."""
    return {"script": script, "rows": [row.to_json() for row in rows]}


def show(rows: Sequence[Row], stream: IO[str], legend: bool = True) -> None:
    """Print the comparison, and the clone's share of os.fork's figures."""
    cells: list[tuple[str, ...]] = [
        (row.name, table.seconds(row.start), table.seconds(row.finish), table.megabytes(row.private),
         _scaled(row) + table.megabytes(row.ram), str(len(row.timings)))
        for row in rows
    ]  # fmt: skip
    by_name = {row.name: row for row in rows}
    clone, fork = by_name["clone"], by_name["os.fork"]
    pairs = ((clone.start, fork.start), (clone.finish, fork.finish), (clone.private, fork.private),
             (clone.ram, fork.ram))  # fmt: skip
    cells.append(("clone ÷ os.fork", *(table.ratio(ours, theirs) for ours, theirs in pairs), ""))
    headings = ("", "start", "finished", "private", f"RAM, {WORKERS} runs", "timed")
    out = table.console(stream)
    out.print(table.table(headings, cells, emphasis="clone"))
    if legend:
        out.print(LEGEND.format(workers=WORKERS), style="dim")
    for row in rows:
        if row.failed:
            out.print(f"{row.name}: {row.failed} of {len(row.timings)} runs failed", style="red")


def _scaled(row: Row) -> str:
    """A sign where fewer than all the runs fitted in memory and the rest is arithmetic."""
    return "≈" if 0 < row.held < WORKERS else ""
