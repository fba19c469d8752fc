"""The most memory that a process took during an action, and what it costs to touch memory at all."""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

MADV_POPULATE_WRITE = 23  # Linux 5.14
V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


class Peak:
    """A memory cgroup (version 1 or 2) around one process; without the right to it `extra()` is None."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.group: Path | None = None
        self.peak: IO[str] | None = None

    def __enter__(self) -> Self:
        with contextlib.suppress(OSError):
            base = V1 if (V1 / "memory.usage_in_bytes").exists() else V2
            group = base / f"clonal-bench-{os.getpid()}-{self.pid}"
            group.mkdir()
            self.group = group
            (group / "cgroup.procs").write_text(str(self.pid), "ascii")
            names = ("memory.max_usage_in_bytes", "memory.peak")
            name = next((name for name in names if (group / name).exists()), None)
            self.peak = None if name is None else open(group / name, "r+", encoding="ascii")
        return self

    def start(self) -> None:
        """Forgets the peak so far."""
        if self.peak is None or self.group is None:
            return
        try:
            self.peak.write("0")
            self.peak.flush()
        except OSError:  # memory.peak can be reset from Linux 6.12 on
            self.peak = None
            return
        usage = "memory.usage_in_bytes" if "max_usage" in self.peak.name else "memory.current"
        self.before = int((self.group / usage).read_text("ascii"))

    def extra(self) -> int | None:
        """Bytes above what was in use at the start, at the worst moment since."""
        if self.peak is None:
            return None
        self.peak.seek(0)
        return max(0, int(self.peak.read()) - self.before)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Lets the process go back to where it was, so that the group can be removed."""
        if self.peak is not None:
            self.peak.close()
        if self.group is not None:
            with contextlib.suppress(OSError):
                (self.group.parent / "cgroup.procs").write_text(str(self.pid), "ascii")
            with contextlib.suppress(OSError):
                self.group.rmdir()


def seconds_to_touch(size: int) -> float:
    """Seconds to get `size` bytes of memory in huge pages, and to write to them; given back at once."""
    with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        area.madvise(mmap.MADV_HUGEPAGE)
        started = time.perf_counter()
        area.madvise(MADV_POPULATE_WRITE)
        return time.perf_counter() - started
