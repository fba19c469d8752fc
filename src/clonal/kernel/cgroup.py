"""The memory and pids groups that a process is in, in cgroup v1, v2 or both at once.

A limit of any ancestor holds for a process, so each is listed, the innermost first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from clonal.kernel import procfs

UNLIMITED = 1 << 62  # v1 has no word for "no limit": it shows the last page below 1 << 63


class Mount(NamedTuple):
    """Where a controller's tree is mounted, and which group of it is the mount's root."""

    controller: str
    version: int
    path: str
    root: str


@cache
def mounts() -> dict[str, Mount]:
    """The mounts of the memory and pids controllers by name; one that is absent is left out."""
    found: dict[str, Mount] = {}
    for line in procfs.read("mountinfo").decode(errors="surrogateescape").splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        root, path = (text.replace(r"\040", " ") for text in left.split()[3:5])
        for controller in _controllers(kind, options, path):
            found.setdefault(controller, Mount(controller, 1 if kind == "cgroup" else 2, path, root))
    return found


def _controllers(kind: str, options: str, path: str) -> list[str]:
    """Which of ours a mounted tree offers."""
    names: set[str] = set()
    if kind == "cgroup":
        names = set(options.split(","))
    elif kind == "cgroup2":
        with suppress(OSError):
            names = set(_text(f"{path}/cgroup.controllers").split())
    return [name for name in ("memory", "pids") if name in names]


def _text(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read()


def _number(path: str) -> int | None:
    """A limit or a counter; None where there is no such file, or no limit."""
    try:
        text = _text(path).strip()
    except OSError:
        return None
    return None if text == "max" else int(text)


def _table(path: str) -> dict[str, int]:
    """A file of "name number" lines; empty where there is none."""
    try:
        lines = _text(path).splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


@dataclass(frozen=True, slots=True)
class Group:
    """One group of one controller: `name` as in /proc/PID/cgroup, `path` its directory."""

    controller: str
    version: int
    name: str
    path: str

    def limit(self) -> int | None:
        """What the group may use, None if there is no limit. v2's memory.high is counted as one:
        above it every allocation is slowed down, which is no place to start a clone."""
        if self.controller == "pids":
            return _number(f"{self.path}/pids.max")
        if self.version == 1:
            limit = _number(f"{self.path}/memory.limit_in_bytes")
            return None if limit is None or limit >= UNLIMITED else limit
        limits = [_number(f"{self.path}/{name}") for name in ("memory.max", "memory.high")]
        return min((limit for limit in limits if limit is not None), default=None)

    def usage(self) -> int:
        """What the group and all below it use: tasks, or bytes that cannot be had back at once."""
        if self.controller == "pids":
            return _number(f"{self.path}/pids.current") or 0
        name = "memory.usage_in_bytes" if self.version == 1 else "memory.current"
        used = _number(f"{self.path}/{name}") or 0
        return max(0, used - self.reclaimable())

    def reclaimable(self) -> int:
        """Page cache that the kernel takes back before it kills."""
        key = "total_inactive_file" if self.version == 1 else "inactive_file"
        return _table(f"{self.path}/memory.stat").get(key, 0)

    def oom_kills(self) -> int | None:
        """How many processes of this group the OOM killer has ended; None if it does not say."""
        name = "memory.oom_control" if self.version == 1 else "memory.events"
        return _table(f"{self.path}/{name}").get("oom_kill")


def groups(controller: str, pid: int | None = None) -> list[Group]:
    """The groups of a process in "memory" or "pids", from its own up to the topmost visible."""
    mount = mounts().get(controller)
    if mount is None:
        return []
    name = _group_name(mount, pid)
    if name is None:
        return []
    found = []
    while True:
        found.append(Group(controller, mount.version, name, _directory(mount, name)))
        if name in ("/", mount.root):
            return found
        name = os.path.dirname(name)


def _group_name(mount: Mount, pid: int | None) -> str | None:
    """The group's name in this mount, if it lies below the mount's root."""
    for line in procfs.read("cgroup", pid).decode(errors="surrogateescape").splitlines():
        _, names, name = line.split(":", 2)
        mine = mount.controller in names.split(",") if mount.version == 1 else names == ""
        if mine and os.path.isdir(_directory(mount, name)):
            return name
    return None


def _directory(mount: Mount, name: str) -> str:
    below = os.path.relpath(name, mount.root)
    return os.path.normpath(os.path.join(mount.path, below))


@contextmanager
def small_group(*, memory: int | None = None, pids: int | None = None) -> Iterator[list[Group]]:
    """A new group of each controller with this limit, below this process's own; removed at the end.

    For tests and tools that must hit a limit without hurting the machine: move a child in with
    `enter(group, pid)`. What still runs inside at the end is killed. Raises PermissionError where
    this user may make no groups, NotImplementedError where no such controller is mounted.
    """
    made: list[Group] = []
    try:
        for controller, limit in (("memory", memory), ("pids", pids)):
            if limit is not None:
                made.append(_make(controller, limit))
        yield made
    finally:
        for group in made:
            _remove(group)


def _make(controller: str, limit: int) -> Group:
    above = groups(controller)
    if not above:
        raise NotImplementedError(f"no {controller} controller is mounted for this process")
    parent = above[0]
    import tempfile  # brings compressors and PRNGs along, which every fork of a template would pay for

    path = tempfile.mkdtemp(prefix="clonal-", dir=parent.path)
    group = Group(controller, parent.version, f"{parent.name.rstrip('/')}/{os.path.basename(path)}", path)
    v1 = parent.version == 1
    name = "pids.max" if controller == "pids" else "memory.limit_in_bytes" if v1 else "memory.max"
    try:
        _write(f"{path}/{name}", str(limit))
        if controller == "memory":
            _keep_in_memory(path, v1)
    except OSError:
        os.rmdir(path)
        raise
    return group


def _keep_in_memory(path: str, v1: bool) -> None:
    """Its processes are not swapped out, or the limit would never be met; where there is no swap
    the file may be lacking."""
    with suppress(FileNotFoundError):
        _write(f"{path}/{'memory.swappiness' if v1 else 'memory.swap.max'}", "0")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def enter(group: Group, pid: int | None = None) -> None:
    """Move a process (this one by default) into the group; its memory so far stays charged where
    it was."""
    _write(f"{group.path}/cgroup.procs", str(0 if pid is None else pid))


def members(group: Group) -> list[int]:
    """The processes in the group."""
    return [int(pid) for pid in _text(f"{group.path}/cgroup.procs").split()]


def _remove(group: Group) -> None:
    """Kill what is left in the group, wait for it to go, remove the directory."""
    for pid in members(group):
        _kill_and_wait(pid)
    os.rmdir(group.path)


def _kill_and_wait(pid: int) -> None:
    if pid == os.getpid():
        raise RuntimeError("this process is itself in the group that it wants to remove")
    import select
    import signal

    with suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [], 10)
        finally:
            os.close(pidfd)
