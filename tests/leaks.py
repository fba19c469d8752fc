"""What a test may leave behind: child processes, descriptors, our memory files, cgroups."""

from __future__ import annotations

import gc
import os
import select
import signal
import time
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

GRACE = 5.0  # seconds for processes that are ending already
MARK = f"CLONAL_TEST_RUN={os.getpid()}"
_CGROUPS = Path("/sys/fs/cgroup")


def mark_descendants() -> None:
    """Make every process that descends from this one known by its environment, orphans too.

    (Adopting orphans by PR_SET_CHILD_SUBREAPER would turn every grandchild that a finished shell
    left into a zombie of ours, which looks like one that we forgot.)
    """
    name, value = MARK.split("=")
    os.environ[name] = value


def children() -> frozenset[int]:
    """Pids of our children, zombies included."""
    pids: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            pids.update(map(int, (task / "children").read_text().split()))
        except OSError:  # a thread that has ended: its children are another's now
            continue
    return frozenset(pids)


def descendants() -> frozenset[int]:
    """Pids of all living processes that descend from us, and of our own zombies."""
    marked = {int(name) for name in os.listdir("/proc") if name.isdigit() and _is_marked(name)}
    return frozenset(marked - {os.getpid()}) | children()


def _is_marked(pid: str) -> bool:
    try:
        environment = Path("/proc", pid, "environ").read_bytes().split(b"\0")
        if MARK.encode() not in environment:
            return False
        return b"multiprocessing.resource_tracker" not in Path("/proc", pid, "cmdline").read_bytes()
    except OSError:  # gone, or not ours to read
        return False


def end_stragglers(before: Set[int]) -> list[str]:
    """Descendants that are not in `before` and outlive the grace; they are killed."""
    deadline = time.monotonic() + GRACE
    stubborn = []
    for pid in descendants() - before - children():
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if not select.select([pidfd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                stubborn.append(f"process {pid} {command(pid)}")
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                select.select([pidfd], [], [], GRACE)
        finally:
            os.close(pidfd)
    return stubborn


def end_children(before: Set[int]) -> list[str]:
    """Children that are not in `before`, zombies included: whoever made them should have reaped
    them. They are killed and reaped."""
    found = []
    for pid in sorted(children() - before):
        if b"multiprocessing.resource_tracker" in Path("/proc", str(pid), "cmdline").read_bytes():
            continue
        found.append(f"child {pid} {command(pid)}")
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return found


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
    """What this process and its descendants hold now."""

    processes: frozenset[int]
    descriptors: frozenset[tuple[int, str]]
    memory_files: int
    cgroups: frozenset[str]

    @classmethod
    def take(cls) -> Snapshot:
        return cls(descendants(), _descriptors(), _memory_files(), _cgroups())

    def complaints(self) -> list[str]:
        """What is held now that was not held at the snapshot; processes found so are ended."""
        gc.collect()
        found = end_children(self.processes) + end_stragglers(self.processes)
        found += [f"cgroup {name}" for name in _cgroups_that_last(self.cgroups)]
        found += [f"descriptor {number} {target}" for number, target in _descriptors() - self.descriptors]
        if (more := _memory_files() - self.memory_files) > 0:
            found.append(f"{more} mappings of clonal's memory files")
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
    """Ours by name, with no process in them: those in use may be another run's, and what lives on
    in one of ours is found as a process."""
    ours = (folder for folder, _, _ in os.walk(_CGROUPS) if "clonal" in os.path.basename(folder))
    return frozenset(folder for folder in ours if _is_empty(folder))


def _is_empty(folder: str) -> bool:
    try:
        return not Path(folder, "cgroup.procs").read_text()
    except OSError:  # removed meanwhile
        return False


def _cgroups_that_last(before: frozenset[str]) -> frozenset[str]:
    """Empty cgroups made since `before` that outlive the grace."""
    deadline = time.monotonic() + GRACE
    while (new := _cgroups() - before) and time.monotonic() < deadline:
        select.select([], [], [], 0.05)  # cgroupfs tells nobody of a removal
    return new
