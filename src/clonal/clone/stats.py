"""What `t.stats()` tells of a template and its clones."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from clonal.clone.imports import Imported, Row, Tally

if TYPE_CHECKING:
    from clonal.clone.handle import Clone

_KEPT = 4096  # latencies of the latest clones


@dataclass(frozen=True)
class Stats:
    """Latencies are in seconds, from the request on; `imports` lists the modules that
    clones imported themselves, with what that cost each: preload those."""

    clones: int
    running: int
    failed: int
    start_p50: float | None
    start_p99: float | None
    result_p50: float | None
    result_p99: float | None
    forks: int
    fork_seconds: float | None
    faults_per_fork: float | None
    standby_used: int
    standby_ready: int
    imports: list[Row] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The same as plain types."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"clones            {self.clones} ({self.running} running, {self.failed} failed)",
            f"start             p50 {_ms(self.start_p50)}, p99 {_ms(self.start_p99)}",
            f"result            p50 {_ms(self.result_p50)}, p99 {_ms(self.result_p99)}",
            f"fork              {_ms(self.fork_seconds)}, {self.faults_per_fork or 0:.1f} copy faults",
        ]
        if self.standby_used or self.standby_ready:
            lines.append(f"standby           {self.standby_used} used, {self.standby_ready} ready")
        for row in self.imports[:10]:
            lines.append(
                f"preload           {row.name} ({row.ms:.1f} ms, {row.mb:.1f} MB in {row.clones} clones)"
            )
        return "\n".join(lines)


class Recorder:
    """Collects what the handles learn; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.made = 0
        self.failed = 0
        self._starts: deque[int] = deque(maxlen=_KEPT)
        self._results: deque[int] = deque(maxlen=_KEPT)
        self._imports = Tally()

    def answered(self, clone: Clone) -> None:
        """A clone has answered or ended without an answer."""
        with self._lock:
            if clone._error is not None:
                self.failed += 1
            if clone.started_ns:
                self._starts.append(clone.started_ns - clone.begun_ns)
            if clone.answered_ns:
                self._results.append(clone.answered_ns - clone.begun_ns)
            self._imports.add(Imported(*one) for one in clone.imported)

    def stats(self, board: dict[str, int]) -> Stats:
        """Everything so far, with the template's own counters."""
        with self._lock:
            starts, results = sorted(self._starts), sorted(self._results)
            imports = self._imports.rows()
        forks = board["forks"]
        return Stats(
            clones=self.made,
            running=max(0, board["live"] - board["standby_ready"]),
            failed=self.failed,
            start_p50=_quantile(starts, 0.5),
            start_p99=_quantile(starts, 0.99),
            result_p50=_quantile(results, 0.5),
            result_p99=_quantile(results, 0.99),
            forks=forks,
            fork_seconds=board["fork_ns"] / forks / 1e9 if forks else None,
            faults_per_fork=board["faults"] / forks if forks else None,
            standby_used=board["handed"],
            standby_ready=board["standby_ready"],
            imports=imports,
        )


def _quantile(ordered: list[int], share: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] / 1e9 if ordered else None


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.3f} ms"
