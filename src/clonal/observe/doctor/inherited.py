"""What children have of their parent besides memory: locks of threads that are not there, descriptors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise

from clonal.kernel import procfs
from clonal.observe.doctor.finding import Fact, Finding, Remedy, forked
from clonal.observe.doctor.framework import Framework, in_child
from clonal.observe.doctor.patient import Patient
from clonal.report.table import counted

DESCRIPTORS = 64  # fewer are not worth a line
STANDARD = 3
TO_TALK = ("pipe:", "anon_inode:")  # what parent and child may well have to talk to each other
LISTENS, ACCEPTS = "0A", 1 << 16  # TCP_LISTEN (include/net/tcp_states.h), __SO_ACCEPTCON (linux/net.h)
STARTED = 19  # starttime, counted from the state (proc_pid_stat(5))


def threads(patient: Patient) -> Iterator[Finding]:
    """The child has the locks that they held, and not the threads (fork(2))."""
    for parent in patient.parents:
        children = [child.pid for mother, child in patient.forked if mother.pid == parent.pid]
        older = _older_threads(parent.pid, children)
        if older:
            names = ", ".join(sorted(set(older))[:4])
            evidence = (
                Fact(f"process {parent.pid} had {counted(len(older), 'thread')} besides the first when it "
                     f"forked: {names}", f"/proc/{parent.pid}/task/*/stat"),
                Fact(f"of those that it forked, {len(children):,} still run", "/proc/PID/stat"),
            )  # fmt: skip
            instead = "no child waits for a lock that nobody holds"
            yield Finding("threads", evidence, _after_fork(patient.framework), None, instead)
            return


def _after_fork(framework: Framework) -> Remedy:
    if framework in (Framework.GUNICORN, Framework.CELERY, Framework.LOADER):
        return in_child(framework, "start_threads()")
    if framework is Framework.MULTIPROCESSING:
        lines = ("import multiprocessing", 'multiprocessing.set_start_method("forkserver")')
        return Remedy("at the top of the main module", lines)
    return Remedy("after the last os.fork(), not before it", ("start_threads()",))


def _older_threads(pid: int, children: list[int]) -> list[str]:
    """Names of threads but the first that were started before the youngest child was."""
    try:
        youngest = max(procfs.stat(child).starttime for child in children)
        found = [thread for thread in procfs.threads(pid) if thread.tid != pid]
        return [thread.name for thread in found if _started(pid, thread.tid) < youngest]
    except (OSError, ValueError):
        return []


def _started(pid: int, tid: int) -> int:
    text = procfs.read(f"task/{tid}/stat", pid).decode(errors="replace")
    return int(text.rpartition(")")[2].split()[STARTED])


def descriptors(patient: Patient) -> Iterator[Finding]:
    """Fork gives the child each of them (kernel/fork.c: copy_files); a connection stays open as long as one
    process has it."""
    found = {child.pid: _kept(parent.pid, child.pid) for parent, child in patient.forked}
    if not found:
        return
    most = max(found, key=lambda pid: len(found[pid]))
    kept = found[most]
    if len(kept) < DESCRIPTORS:
        return
    first, last = _longest_run(sorted(kept))
    kinds = sorted({link.partition(":")[0] if ":" in link else "file" for link in kept.values()})
    total = sum(len(each) for each in found.values())
    evidence = (
        Fact(f"process {most} has {len(kept)} descriptors of its parent ({', '.join(kinds)}), "
             f"{last - first + 1} of them from {first} to {last}", f"/proc/{most}/fd"),
        Fact(f"{total} in {forked(len(found))}", "/proc/PID/fd"),
    )  # fmt: skip
    call = f"os.closerange({first}, {last + 1})"
    if patient.framework is Framework.NONE:
        call = f"close_range({first}, {last}, 0);"
    remedy = in_child(patient.framework, call, "os")
    yield Finding("descriptors", evidence, remedy, None, f"{last - first + 1} descriptors less in a child")


def _kept(parent: int, child: int) -> dict[int, str]:
    """The child's descriptors that are the parent's too, by their numbers."""
    try:
        theirs, own, needed = _links(parent), _links(child), _listening(child)
    except OSError:
        return {}
    return {
        fd: link
        for fd, link in own.items()
        if fd >= STANDARD and theirs.get(fd) == link and not link.startswith(TO_TALK) and link not in needed
    }


def _links(pid: int) -> dict[int, str]:
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue
    return found


def _listening(pid: int) -> set[str]:
    """Sockets at which workers wait together for connections (proc_pid_net(5))."""
    found = set()
    for name in ("tcp", "tcp6", "unix"):
        try:
            rows = [line.split() for line in procfs.read(f"net/{name}", pid).decode().splitlines()[1:]]
        except FileNotFoundError:
            continue
        if name == "unix":
            found |= {row[6] for row in rows if int(row[3], 16) & ACCEPTS}
        else:
            found |= {row[9] for row in rows if row[3] == LISTENS}
    return {f"socket:[{inode}]" for inode in found}


def _longest_run(numbers: list[int]) -> tuple[int, int]:
    breaks = [0, *(at for at, (a, b) in enumerate(pairwise(numbers), 1) if b != a + 1), len(numbers)]
    first, end = max(pairwise(breaks), key=lambda run: run[1] - run[0])
    return numbers[first], numbers[end - 1]
