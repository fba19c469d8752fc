"""What a test may leave behind: child processes, descriptors, our memory files, cgroups."""

from __future__ import annotations

import ctypes
import gc
import os
import select
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

GRACE = 5.0  # seconds for processes that are ending already
_PR_SET_CHILD_SUBREAPER = 36
_CGROUPS = Path("/sys/fs/cgroup")


def adopt_orphans() -> None:
    """Become the parent of whatever our descendants orphan, so that it can be seen and ended."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> set[int]:
    """Pids of our children, zombies included."""
    pids: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        pids.update(int(pid) for pid in (task / "children").read_text().split())
    return pids


def reap_orphans(before: Iterable[int]) -> list[str]:
    """Wait for children that are not in `before` to end; kill and name those that do not."""
    known, stubborn = set(before), []
    deadline = time.monotonic() + GRACE
    while orphans := children() - known:
        for pid in orphans:
            if not _ends_by(pid, deadline):
                stubborn.append(f"{pid} {command(pid)}")
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return stubborn


def _ends_by(pid: int, deadline: float) -> bool:
    """Wait for a child's end, without reaping it."""
    pidfd = os.pidfd_open(pid)
    try:
        return bool(select.select([pidfd], [], [], max(0.0, deadline - time.monotonic()))[0])
    finally:
        os.close(pidfd)


def command(pid: int) -> str:
    """The state and command line of a process, for a message."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return "(gone)"
    return f"[{state}] {line}".strip()


@dataclass(frozen=True)
class Snapshot:
    """What this process holds now."""

    children: frozenset[int]
    descriptors: frozenset[tuple[int, str]]
    memory_files: int
    cgroups: frozenset[str]

    @classmethod
    def take(cls) -> Snapshot:
        return cls(frozenset(children()), _descriptors(), _memory_files(), _cgroups())

    def complaints(self) -> list[str]:
        """What is held now that was not held at the snapshot; children found so are ended."""
        gc.collect()
        lasting = _cgroups_that_last(self.cgroups)
        now = Snapshot.take()
        found = [f"process {pid} {command(pid)}" for pid in now.children - self.children]
        found += [f"descriptor {number} {target}" for number, target in now.descriptors - self.descriptors]
        found += [f"cgroup {name}" for name in lasting]
        if now.memory_files > self.memory_files:
            found.append(f"{now.memory_files - self.memory_files} mappings of clonal's memory files")
        for pid in now.children - self.children:
            os.kill(pid, signal.SIGKILL)
        reap_orphans(self.children)
        return found


def _descriptors() -> frozenset[tuple[int, str]]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add((int(name), os.readlink(f"/proc/self/fd/{name}")))
        except FileNotFoundError:  # the descriptor that listed the folder
            continue
    return frozenset(found)


def _memory_files() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:clonal")


def _cgroups() -> frozenset[str]:
    return frozenset(folder for folder, _, _ in os.walk(_CGROUPS) if "clonal" in os.path.basename(folder))


def _cgroups_that_last(before: frozenset[str]) -> frozenset[str]:
    """Cgroups made since `before` that outlive the grace; one can go only after its members."""
    deadline = time.monotonic() + GRACE
    while (new := _cgroups() - before) and time.monotonic() < deadline:
        select.select([], [], [], 0.05)  # cgroupfs tells nobody of a removal
    return new
