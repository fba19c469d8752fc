"""Whether a process was ended by the OOM killer, and making oneself its first choice."""

from __future__ import annotations

import os
import signal

from clonal.kernel import cgroup, memory

SCORE = "/proc/self/oom_score_adj"


class OomWatch:
    """Tells SIGKILL by the OOM killer from any other, for the children of one process.

    The kernel counts each kill in the victim's memory group (`__oom_kill_process`, mm/oom_kill.c),
    whoever asked for it; each count explains one death. Where no memory controller is visible the
    machine's own count in /proc/vmstat serves, which may be of another's death.
    """

    def __init__(self, pid: int | None = None) -> None:
        groups = cgroup.groups("memory", pid)
        self._group = groups[0] if groups and groups[0].oom_kills() is not None else None
        self._explained = self._kills()

    def _kills(self) -> int:
        if self._group is not None:
            return self._group.oom_kills() or 0
        return machine_oom_kills()

    def explains(self, status: int) -> bool:
        """Whether a death with this wait status was the OOM killer's."""
        if status & 0x7F != signal.SIGKILL or self._kills() <= self._explained:
            return False
        self._explained += 1
        return True


def machine_oom_kills() -> int:
    """OOM kills since boot, from /proc/vmstat."""
    for line in memory.slurp("/proc/vmstat").splitlines():
        if line.startswith(b"oom_kill "):
            return int(line.split()[1])
    return 0


def raise_own_score(delta: int) -> int:
    """Make the OOM killer prefer this process by `delta` thousandths of all memory; the new score.
    Children inherit it. It may be lowered again only as far as the score it started with."""
    fd = os.open(SCORE, os.O_RDWR | os.O_CLOEXEC)
    try:
        score = max(-1000, min(1000, int(os.read(fd, 16)) + delta))
        os.write(fd, b"%d" % score)
        return score
    finally:
        os.close(fd)
