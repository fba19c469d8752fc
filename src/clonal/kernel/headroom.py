"""Whether the machine can take another clone: refused here rather than killed later.

Every limit that could stop a clone, or have it killed, is read at most every 50 ms; in between a
check only spends what the last reading allowed, which takes about a microsecond. A shortage is
never told from an old reading.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from clonal.errors import CloneRefused
from clonal.kernel import cgroup, memory, procfs

MB = 1 << 20
PRIVATE_BYTES = 2 * MB  # what a clone is taken to write if nobody has measured it
RESERVED_PIDS = 300  # pids below this are not given out again (kernel/pid.c)
SYS_ADMIN, SYS_RESOURCE = 21, 24  # capability numbers
SETTINGS_SECONDS = 1.0
UNLIMITED = float("inf")
COPIED_PER_SECOND = 512 * MB  # 4 KiB in 8 µs, the slower end of what a copy fault takes
WALK_BELOW = 256  # tasks left to a user by the crude count


class Allowance(NamedTuple):
    """What one limit leaves, and what to do when that is too little."""

    limit: str
    have: float
    unit: str
    hint: str


_NO_LIMIT = Allowance("nothing", UNLIMITED, "bytes", "")
# At fork neighbours that were merged count as one: mappings that each succeeded may not be forked.
_GUESS_LIMIT = Allowance(
    "overcommit (vm.overcommit_memory=0): one mapping, as large as RAM and swap at most,",
    0,
    "bytes",
    "map it MAP_NORESERVE, or set vm.overcommit_memory=1",
)


class Headroom:
    """The limits that hold for clones of one template.

    `private_bytes` of a check is what each clone is expected to write. Say `done` when a clone has
    ended, so that what it was allowed counts no longer as promised.
    """

    def __init__(
        self, template_pid: int | None = None, *, refresh: float = 0.05, reserve: int | None = None
    ) -> None:
        self._pid = template_pid
        self._refresh = refresh
        self._reserve = reserve
        self._until = 0.0
        self._read_at = 0.0
        self._promised = 0  # bytes that clones were allowed to write and may not have written yet
        self._memory = self._tasks = self._commit = _NO_LIMIT
        self._memory_left = self._tasks_left = self._commit_left = 0.0
        self._charge = 0
        self._charge_until = 0.0
        self._settings: _Settings | None = None
        self._settings_until = 0.0

    def check(
        self, n: int = 1, *, private_bytes: int = PRIVATE_BYTES, template_pid: int | None = None
    ) -> None:
        """Raise `CloneRefused` unless n more clones fit; else count them as made."""
        if template_pid is not None and template_pid != self._pid:
            self._pid, self._until, self._charge_until = template_pid, 0.0, 0.0
            self._settings_until = 0.0
        need = n * private_bytes
        if time.monotonic() >= self._until:
            self._settle()
            self._read()
        if not self._fits(n, need):
            self._read(settings=True)
            if not self._fits(n, need):
                raise self._refusal(n, need)
        self._promised += need
        self._memory_left -= need
        self._tasks_left -= n
        self._commit_left -= n * self._charge

    def done(self, n: int = 1, *, private_bytes: int = PRIVATE_BYTES) -> None:
        """n clones have ended: what was promised to them is free."""
        back = min(self._promised, n * private_bytes)
        self._promised -= back
        self._memory_left += back

    def _settle(self) -> None:
        """Promises turn into memory in use, which the next reading sees, as fast as pages are copied."""
        passed = time.monotonic() - self._read_at
        self._promised = max(0, self._promised - int(passed * COPIED_PER_SECOND))

    def _fits(self, n: int, need: int) -> bool:
        return need <= self._memory_left and n <= self._tasks_left and n * self._charge <= self._commit_left

    def _refusal(self, n: int, need: int) -> CloneRefused:
        if need > self._memory_left:
            short, wanted, left = self._memory, need, self._memory_left
        elif n > self._tasks_left:
            short, wanted, left = self._tasks, n, self._tasks_left
        else:
            short, wanted, left = self._commit, n * self._charge, self._commit_left
        return CloneRefused(short.limit, wanted, max(0, int(left)), short.unit, short.hint)

    def _read(self, *, settings: bool = False) -> None:
        """Read every limit. What was promised lately may not show in them yet."""
        now = time.monotonic()
        if settings or self._settings is None or now >= self._settings_until:
            fresh = _Settings.read(self._pid)
            if self._settings is None or fresh.overcommit != self._settings.overcommit:
                self._charge_until = 0.0
            self._settings = fresh
            self._settings_until = now + SETTINGS_SECONDS
        info = memory.meminfo()
        self._commit = self._read_commit(info, self._settings.overcommit)
        self._memory = min(_memory_allowances(info, self._settings, self._reserve), key=_have)
        self._tasks = min(_task_allowances(self._settings), key=_have)
        self._memory_left = self._memory.have - self._promised
        self._tasks_left = self._tasks.have
        self._commit_left = self._commit.have
        self._read_at = time.monotonic()
        self._until = self._read_at + self._refresh

    def _read_commit(self, info: dict[str, int], mode: int) -> Allowance:
        """The commit limit, which only mode 2 has; mode 0 judges each mapping by itself."""
        most = info["MemTotal"] + info["SwapTotal"]
        start = time.monotonic()
        if start >= self._charge_until:
            self._charge = self._read_charge(mode, most)
            took = time.monotonic() - start  # it changes slowly: spend 2 % of the time on it
            self._charge_until = start + max(self._refresh, 50 * took)
        if mode == memory.OVERCOMMIT_NEVER:
            return _commit_limit(info, self._pid)
        return _GUESS_LIMIT._replace(have=most) if self._charge else _NO_LIMIT

    def _read_charge(self, mode: int, most: int) -> int:
        """What a clone is charged, as far as the mode cares."""
        if mode == memory.OVERCOMMIT_NEVER:
            return memory.fork_charge(self._pid).total
        return memory.largest_charge(self._pid, above=most) if mode == memory.OVERCOMMIT_GUESS else 0


class _Settings(NamedTuple):
    """What an administrator changes: read once a second, and before a refusal."""

    overcommit: int
    threads_max: int
    pid_max: int
    user: int | None  # whose tasks RLIMIT_NPROC counts; None where it does not hold
    user_limit: int
    memory_groups: list[cgroup.Group]
    pids_groups: list[cgroup.Group]

    @classmethod
    def read(cls, pid: int | None) -> _Settings:
        status = procfs.status(pid)
        limit = procfs.limit("Max processes", pid)
        user = status.integer("Uid")
        privileged = status.mask("CapEff") & (1 << SYS_ADMIN | 1 << SYS_RESOURCE)
        spared = user == 0 or privileged or limit is None
        return cls(
            overcommit=memory.overcommit_mode(),
            threads_max=int(memory.slurp("/proc/sys/kernel/threads-max")),
            pid_max=int(memory.slurp("/proc/sys/kernel/pid_max")),
            user=None if spared else user,
            user_limit=limit or 0,
            memory_groups=cgroup.groups("memory", pid),
            pids_groups=cgroup.groups("pids", pid),
        )


def _have(allowance: Allowance) -> float:
    return allowance.have


def _commit_limit(info: dict[str, int], pid: int | None) -> Allowance:
    status = procfs.status(pid)
    sys_admin = bool(status.mask("CapEff") >> SYS_ADMIN & 1)
    have = memory.commit_headroom(status.size("VmSize"), sys_admin=sys_admin, info=info)
    hint = "raise vm.overcommit_ratio or add swap: in this mode a clone is charged all that it might write"
    return Allowance("commit limit (vm.overcommit_memory=2)", have, "bytes", hint)


def _memory_allowances(info: dict[str, int], settings: _Settings, reserve: int | None) -> list[Allowance]:
    if reserve is None:
        reserve = max(64 * MB, info["MemTotal"] // 50)
    free = info["MemAvailable"] + info["SwapFree"] - reserve
    hint = "let clones end first, or make fewer at once"
    found = [Allowance("RAM", free, "bytes", hint)]
    for group in settings.memory_groups:
        limit = group.limit()
        if limit is not None:
            have = limit - limit // 64 - group.usage()
            name = f"memory cgroup {group.name}"
            found.append(Allowance(name, have, "bytes", f"{hint}, or raise its limit"))
    return found


def _task_allowances(settings: _Settings) -> list[Allowance]:
    total = int(memory.slurp("/proc/loadavg").split()[3].partition(b"/")[2])
    found = [
        Allowance("kernel.threads-max", settings.threads_max - total, "tasks", "raise that sysctl"),
        Allowance("kernel.pid_max", settings.pid_max - RESERVED_PIDS - total, "tasks", "raise that sysctl"),
    ]
    if settings.user is not None:
        have = _user_tasks_left(settings.user, settings.user_limit, total)
        found.append(Allowance("RLIMIT_NPROC", have, "tasks", "raise it with ulimit -u"))
    for group in settings.pids_groups:
        limit = group.limit()
        if limit is not None:
            hint = "let clones end first, or raise its pids.max"
            found.append(Allowance(f"pids cgroup {group.name}", limit - group.usage(), "tasks", hint))
    return found


def _user_tasks_left(user: int, limit: int, total: int) -> int:
    """RLIMIT_NPROC counts every task of the real user (kernel/fork.c: copy_process). The tasks of
    all users are one number and counting one user's a walk over /proc: walk only if it matters."""
    at_least = limit - total
    return at_least if at_least >= WALK_BELOW else limit - _tasks_of(user)


def _tasks_of(user: int) -> int:
    """How many threads the processes of a user have."""
    count = 0
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            status = procfs.status(int(entry))
        except OSError:
            continue
        if status.integer("Uid") == user:
            count += status.integer("Threads")
    return count
