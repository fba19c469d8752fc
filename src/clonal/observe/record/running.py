"""`clonal record --pid`: processes that run already, and all that they start."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clonal.observe.family import check, family
from clonal.observe.record import following, outside
from clonal.observe.record.careful import Careful
from clonal.observe.record.file import LIMIT, Kind
from clonal.observe.record.run import begun


def record_running(
    pids: Sequence[int], path: Path, limit: int = LIMIT, backend: str = "bpf",
    duration: float | None = None, begins: Callable[[int], None] = lambda _: None,
) -> None:  # fmt: skip
    """Until this process is asked to end, for so many seconds, or until all have ended. It `begins` with so
    many processes. Raises Unreadable, CannotBegin, CannotRecord."""
    for pid in pids:
        check(pid)
    command = family(pids[0])[0].command.split() or [str(pids[0])]
    begun(command, path, limit, backend, list(pids)).close()
    writer = Careful(str(path), limit)
    try:
        with Ending(duration) as ending:
            if backend == "bpf":
                following.follow(writer, pids, [os.getpid()], ending, begins)
            else:
                outside.watch(writer, pids, [os.getpid()], ending.wait, begins)
        writer.write(Kind.END, {"time": time.monotonic_ns(), "status": 0}, pid=0)
    finally:
        writer.close()


class Ending:
    """True when it is time to stop: this process was asked to end, or the time is over."""

    def __init__(self, duration: float | None) -> None:
        self._until = None if duration is None else time.monotonic() + duration
        self._asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Ending:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._reader)
        os.close(self._writer)

    def __bool__(self) -> bool:
        return self._asked or (self._until is not None and time.monotonic() >= self._until)

    def fileno(self) -> int:
        """Readable once this process was asked to end."""
        return self._reader

    def wait(self, seconds: float) -> bool:
        """So long, or until it is time to stop: whether it is."""
        if self._until is not None:
            seconds = min(seconds, max(0.0, self._until - time.monotonic()))
        select.select([self._reader], [], [], seconds)
        return bool(self)

    def _ask(self, *_signal: object) -> None:
        self._asked = True
        os.write(self._writer, b"x")
