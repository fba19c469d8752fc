"""Where the next fork, or the next copy, meets a limit: overcommit, control group, OOM killer."""

from __future__ import annotations

from collections.abc import Iterator

from clonal.kernel import cgroup, memory, procfs
from clonal.kernel.headroom import SYS_ADMIN
from clonal.observe.doctor.finding import Fact, Finding, Remedy, forked
from clonal.observe.doctor.framework import Framework, in_child
from clonal.observe.doctor.patient import Patient
from clonal.report.words import share, size

NEAR = 0.9  # of a limit


def overcommit(patient: Patient) -> Iterator[Finding]:
    """Whether one more fork of each process that forks would be granted (mm/util.c: __vm_enough_memory)."""
    for parent in patient.parents:
        try:
            charge, status = memory.fork_charge(parent.pid), procfs.status(parent.pid)
        except OSError:
            continue
        admin = bool(status.mask("CapEff") >> SYS_ADMIN & 1)
        left = memory.commit_headroom(status.size("VmSize"), sys_admin=admin)
        yield from refused(parent.pid, memory.overcommit_mode(), charge, left, memory.meminfo())


def refused(
    pid: int, mode: int, charge: memory.ForkCharge, left: int, info: dict[str, int]
) -> Iterator[Finding]:
    """Mode 2 charges a child all it might write; mode 0 refuses a mapping larger than RAM and swap."""
    most = info["MemTotal"] + info["SwapTotal"]
    remedy = Remedy("as root", ("sysctl -w vm.overcommit_memory=1",))
    source = "smaps of the process, /proc/meminfo"
    if mode == memory.OVERCOMMIT_NEVER and charge.total > left:
        text = f"a fork of process {pid} is charged {size(charge.total)}; {size(max(0, left))} are left"
    elif mode == memory.OVERCOMMIT_GUESS and charge.largest > most:
        text = f"a mapping of process {pid} has {size(charge.largest)}; RAM and swap have {size(most)}"
    else:
        return
    mode_fact = Fact(f"vm.overcommit_memory is {mode}", "/proc/sys/vm/overcommit_memory")
    yield Finding("overcommit", (mode_fact, Fact(text, source)), remedy, None, "forks are not refused")


def limits(patient: Patient) -> Iterator[Finding]:
    """The groups' limits, and who is killed at one."""
    tight = list(_groups(patient))
    yield from tight
    if tight or _machine_is_full():
        yield from oom_score(patient)


def _groups(patient: Patient) -> Iterator[Finding]:
    for group in cgroup.groups("memory", patient.pid):
        limit = group.limit()
        used = group.usage()
        if limit and used >= NEAR * limit:
            yield near_limit(group, limit, used, len(patient.forked))
            return


def near_limit(group: cgroup.Group, limit: int, used: int, children: int) -> Finding:
    """A group that is nearly full."""
    text = f"{group.name} uses {size(used)} of {size(limit)} ({share(used / limit)})"
    evidence = (
        Fact(text, group.path),
        Fact(f"{forked(children)} may copy more", "/proc/PID/pagemap"),
    )
    name = "memory.limit_in_bytes" if group.version == 1 else "memory.max"
    remedy = Remedy(
        "as root; or start fewer processes", (f"echo {limit + limit // 2} > {group.path}/{name}",)
    )
    return Finding("cgroup", evidence, remedy, None, "no process is killed for the copies of others")


def _machine_is_full() -> bool:
    info = memory.meminfo()
    return info["MemAvailable"] < (1 - NEAR) * info["MemTotal"]


def oom_score(patient: Patient) -> Iterator[Finding]:
    """The killer takes the highest score (mm/oom_kill.c: oom_badness): here a parent's."""
    for parent in patient.parents:
        children = [child.pid for mother, child in patient.forked if mother.pid == parent.pid]
        try:
            own, theirs = _score(parent.pid), max(_score(pid) for pid in children)
        except (OSError, ValueError):
            continue
        if own >= theirs:
            text = f"oom_score of process {parent.pid} is {own}, of its children at most {theirs}"
            fact = Fact(text, "/proc/PID/oom_score")
            remedy = _raised(patient.framework, children)
            yield Finding("oom-score", (fact,), remedy, None, "a child dies, not the parent")
            return


def _score(pid: int) -> int:
    return int(procfs.read("oom_score", pid))


def _raised(framework: Framework, children: list[int]) -> Remedy:
    if framework is Framework.NONE:
        pids = " ".join(map(str, children))
        line = f"for pid in {pids}; do echo 500 > /proc/$pid/oom_score_adj; done"
        return Remedy("as the user of these processes", (line,))
    return in_child(framework, 'open("/proc/self/oom_score_adj", "w").write("500")')
