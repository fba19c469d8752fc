"""What `clonal run` says at the end: for a person, or as JSON."""

from __future__ import annotations

import math
import signal
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import IO, Any

from clonal.bench.script.strategies import Timing
from clonal.clone.imports import Row
from clonal.report import table

OURS = "clonal"  # what this command itself imports is no advice to anyone


@dataclass
class RunReport:
    """Filled while the runs go on. `imports` is what clones had to import themselves."""

    script: str
    runs: int
    jobs: int
    timings: list[Timing] = field(default_factory=list)
    private: list[int] = field(default_factory=list)
    imports: Sequence[Row] = ()
    warm_seconds: float = 0.0
    wall_seconds: float = 0.0
    _since: float = field(default_factory=time.perf_counter)

    def warmed(self) -> None:
        """The template is ready."""
        self.warm_seconds, self._since = time.perf_counter() - self._since, time.perf_counter()

    def done(self) -> None:
        """All runs have ended."""
        self.wall_seconds = time.perf_counter() - self._since

    @property
    def exits(self) -> dict[str, int]:
        """How many runs ended in each way: "0", "1", "SIGSEGV"."""
        return dict(Counter(exit_name(timing.exitcode) for timing in self.timings))

    def exit_status(self) -> int:
        """What the command exits with."""
        failed = [timing.exitcode for timing in self.timings if timing.exitcode]
        if not failed:
            return 0
        if self.runs > 1:
            return 1
        return failed[0] if failed[0] > 0 else 128 - failed[0]

    def to_json(self) -> dict[str, Any]:
        starts = [timing.start for timing in self.timings if timing.start is not None]
        finishes = [timing.finish for timing in self.timings]
        return {
            "script": self.script,
            "runs": self.runs,
            "at_a_time": self.jobs,
            "exits": self.exits,
            "template_ready_s": self.warm_seconds,
            "wall_s": self.wall_seconds,
            "runs_per_s": len(self.timings) / self.wall_seconds if self.wall_seconds else None,
            "start_s": spread(starts),
            "finish_s": spread(finishes),
            "private_bytes_median": statistics.median(self.private) if self.private else None,
            "private_measured": len(self.private),
            "preload_advice": [asdict(each) for each in self._advice()],
        }

    def _advice(self) -> list[Row]:
        return [each for each in self.imports if each.name.partition(".")[0] != OURS]

    def show(self, stream: IO[str]) -> None:
        """Print it in a few lines."""
        out = table.console(stream)
        for heading, text in self._lines():
            out.print(f"[bold]{heading:9}[/bold] {text}", soft_wrap=True)

    def _lines(self) -> list[tuple[str, str]]:
        at_a_time = f", {self.jobs} at a time" if self.runs > 1 else ""
        failed = sum(timing.exitcode != 0 for timing in self.timings)
        ways = ", ".join(f"{name} ×{count:,}" for name, count in self.exits.items() if name != "0")
        how = f"[red]{failed:,} failed ({ways})[/red]" if failed else "all exited 0"
        if self.runs == 1:
            how = f"[red]exited {ways.removesuffix(' ×1')}[/red]" if failed else "exited 0"
        lines = [
            ("runs", f"{table.counted(self.runs, 'run')} of {self.script}{at_a_time}: {how}"),
            ("template", f"ready in {table.seconds(self.warm_seconds)}"),
            ("start", _spread_text([timing.start for timing in self.timings if timing.start is not None])),
            ("finished", self._finished()),
        ]
        if self.private:
            median = table.megabytes(statistics.median(self.private))
            lines.append(("private", f"{median} a clone (anonymous memory it alone maps at its end)"))
        return lines + self._advice_lines()

    def _finished(self) -> str:
        text = _spread_text([timing.finish for timing in self.timings])
        rate = len(self.timings) / self.wall_seconds
        return f"{text}   {rate:,.0f} runs/s" if self.runs > 1 else text

    def _advice_lines(self) -> list[tuple[str, str]]:
        advice = self._advice()
        if not advice:
            return []
        total = f"{sum(each.ms for each in advice):.0f} ms, {sum(each.mb for each in advice):.1f} MB"
        tops = list(dict.fromkeys(each.name.partition(".")[0] for each in advice))
        more = f" and {len(tops) - 8} more" if len(tops) > 8 else ""
        return [("advice", f"clones import {', '.join(tops[:8])}{more} themselves ({total} each time): "
                 f"--preload {','.join(tops[:8])}")]  # fmt: skip


def exit_name(code: int) -> str:
    """An exit code in words: `0`, `3`, `SIGSEGV`."""
    if code >= 0:
        return str(code)
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Median and 99th percentile."""
    return {"p50": percentile(values, 0.5), "p99": percentile(values, 0.99)} if values else None


def _spread_text(values: Sequence[float]) -> str:
    if len(values) < 2:
        return table.seconds(values[0] if values else None)
    return f"p50 {table.seconds(percentile(values, 0.5))}   p99 {table.seconds(percentile(values, 0.99))}"
