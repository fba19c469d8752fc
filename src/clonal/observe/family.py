"""A process and all that descends from it, and which of them are a template and its clones."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from clonal.errors import Error
from clonal.kernel import procfs
from clonal.report.words import printable

Role = Literal["template", "clone", "process"]

TEMPLATE, CLONE = "clonal-template", "clonal-clone"  # names that _native/serve.c and birth.c give
KEEPER = "clonal-keeper"  # a child of a template that is no clone (record/keeping.py)


class Unreadable(Error):
    """A process whose memory cannot be looked at; `reason` says why, and what would help."""

    def __init__(self, pid: int, reason: str) -> None:
        super().__init__(f"process {pid}: {reason}", pid=pid, reason=reason)


@dataclass(frozen=True)
class Member:
    """A process of a family. `name` is what it calls itself (15 letters), `command` its command line, `of`
    that of the program that made a template; printable all three."""

    pid: int
    ppid: int
    name: str
    role: Role = "process"
    command: str = ""
    of: str = ""

    @property
    def title(self) -> str:
        """What it is called in a sentence."""
        if not self.of:
            name = shortened(self.command, 30) if self.name.startswith("python") else ""
            return f"process {self.pid} ({name or self.name})"
        return f"template {self.pid} of {shortened(self.of, 30)}"


def family(pids: int | Iterable[int], without: Iterable[int] = ()) -> list[Member]:
    """These processes and all that descend from them, parents before children. Zombies are left out,
    and `without` with their descendants. Raises Unreadable for one that is asked for and has no memory."""
    roots = [pids] if isinstance(pids, int) else list(dict.fromkeys(pids))
    for pid in roots:
        check(pid)
    stats = {each.pid: each for each in processes()}
    children: dict[int, list[int]] = {}
    for each in stats.values():
        children.setdefault(each.ppid, []).append(each.pid)
    left_out = set(without) - set(roots)
    order: dict[int, None] = {}
    todo = roots[::-1]
    while todo:
        pid = todo.pop()
        if pid not in order and pid not in left_out and pid in stats:
            order[pid] = None
            todo += sorted(children.get(pid, ()), reverse=True)
    if not order:
        raise Unreadable(roots[0], "has ended while it was looked for")
    return members([stats[pid] for pid in _parents_first(list(order), stats)])


def check(pid: int) -> None:
    """Raises Unreadable where there is no process of this number that has memory and may be read."""
    if not os.path.isdir(f"/proc/{pid}") or pid <= 0:
        raise Unreadable(pid, "there is no such process")
    try:
        stat, status = procfs.stat(pid), procfs.status(pid)
        if (group := status.integer("Tgid")) != pid:
            raise Unreadable(pid, f"is a thread of process {group}: give that")
        if stat.state in "ZX" or status["State"][0] in "ZX":
            raise Unreadable(pid, f"{printable(stat.comm)} is a zombie: it has ended and its memory is gone")
        if "VmSize" not in status.fields:
            raise Unreadable(pid, f"{stat.comm} is a kernel thread: it has no memory of its own")
        procfs.read("smaps_rollup", pid)
    except PermissionError:
        raise Unreadable(pid, "has ended" if ended(pid) else denied(pid)) from None
    except ProcessLookupError:
        raise Unreadable(pid, "there is no such process") from None
    except FileNotFoundError:  # a kernel before 4.14
        return


def ended(pid: int) -> bool:
    """Whether a process has no memory any more. Its files in /proc are root's then (fs/proc/base.c
    task_dump_owner): others are denied what was theirs to read. It gives its memory up before it is a zombie
    (kernel/exit.c do_exit)."""
    try:
        stat = procfs.stat(pid)
    except (ProcessLookupError, FileNotFoundError):
        return True
    return stat.state in "ZX" or stat.vsize == 0


def denied(pid: int) -> str:
    """Why this user may not look into a process, and who may."""
    if os.geteuid() == 0:
        return "may not be inspected, by root neither: it has rights that this process lacks (CAP_SYS_PTRACE)"
    owner = os.stat(f"/proc/{pid}").st_uid if os.path.isdir(f"/proc/{pid}") else None
    if owner == os.geteuid():
        return "may not be inspected: it has changed its rights or hides its memory; root may (sudo)"
    return f"may not be inspected by user {os.geteuid()}: root may (sudo)"


def processes() -> Iterator[procfs.Stat]:
    """All that there are, without zombies."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                stat = procfs.stat(int(name))
            except (ProcessLookupError, FileNotFoundError):
                continue
            if stat.state not in "ZX":
                yield stat


def _parents_first(pids: list[int], stats: dict[int, procfs.Stat]) -> list[int]:
    """As found, but one that was asked for comes after its parent that was asked for later."""
    found: dict[int, None] = {}
    all_of_them = set(pids)

    def add(pid: int) -> None:
        parent = stats[pid].ppid
        if parent in all_of_them and parent not in found:
            add(parent)
        found[pid] = None

    for pid in pids:
        add(pid)
    return list(found)


def members(stats: Sequence[procfs.Stat]) -> list[Member]:
    """These processes, parents before children, as members of a family."""
    roles: dict[int, Role] = {}
    for each in stats:
        if each.comm == TEMPLATE:
            roles[each.pid] = "template"
        elif each.comm != KEEPER and (roles.get(each.ppid) == "template" or each.comm == CLONE):
            roles[each.pid] = "clone"
        else:
            roles[each.pid] = "process"
    made_by = {each.pid: command(each.ppid) for each in stats if roles[each.pid] == "template"}
    return [
        Member(
            each.pid,
            each.ppid,
            printable(each.comm),
            roles[each.pid],
            command(each.pid),
            made_by.get(each.pid, ""),
        )
        for each in stats
    ]


def command(pid: int) -> str:
    """Its command line in one line, "" of a kernel thread and of one that has ended."""
    return printable(" ".join(" ".join(words(pid)).split()))


def shortened(command: str, letters: int) -> str:
    """A command line without the folder of its program, cut."""
    first, space, rest = command.partition(" ")
    text = first.rpartition("/")[2] + space + rest
    return text if len(text) <= letters else text[: letters - 1] + "…"


def words(pid: int) -> list[str]:
    """The words of its command line."""
    try:
        text = procfs.read("cmdline", pid)
    except OSError:
        return []
    return text.rstrip(b"\0").decode(errors="replace").split("\0") if text else []
