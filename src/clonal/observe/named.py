"""A process by its name: that of its program, its script or its module, or `template`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import PurePath

from clonal.errors import Error
from clonal.kernel import procfs
from clonal.observe.family import TEMPLATE, command, processes, shortened, words

MOST = 5  # processes that are listed
LETTERS = 50  # of a command line that is listed
WITH_A_WORD = frozenset({"-X", "-W", "--check-hash-based-pycs"})  # options of python before a script


class NotNamed(Error):
    """No process is called so, or several are; `pids` are those."""

    def __init__(self, name: str, pids: Sequence[int], why: str) -> None:
        super().__init__(why, name=name, pids=list(pids), why=why)


def find(name: str) -> int:
    """The process of this name: the topmost, where its descendants have it too. Neither this one nor what it
    was started from (`sudo clonal top NAME` has the name in it). Raises NotNamed."""
    stats = {each.pid: each for each in processes()}
    ours = set(_upwards(os.getpid(), stats))
    called = {pid for pid, stat in stats.items() if pid not in ours and name in names(stat, words(pid))}
    mine = {pid for pid in called if _owner(pid) == os.geteuid()} or called
    found = sorted(pid for pid in mine if mine.isdisjoint(list(_upwards(stats[pid].ppid, stats))))
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotNamed(
            name, [], f"no process is called {name!r}: give a PID, or the name of a program or script"
        )
    listed = ", ".join(_told(stats[pid]) for pid in found[:MOST])
    more = f" and {len(found) - MOST} more" if len(found) > MOST else ""
    raise NotNamed(
        name, found, f"{len(found)} processes are called {name!r}; give the PID of one: {listed}{more}"
    )


def _told(stat: procfs.Stat) -> str:
    of = "of " if stat.comm == TEMPLATE else ""
    return f"{stat.pid} ({of}{shortened(command(stat.ppid if of else stat.pid), LETTERS)})"


def names(stat: procfs.Stat, line: Sequence[str]) -> set[str]:
    """What a process may be called. A kernel thread has no command line, and no name."""
    if not line:
        return set()
    if stat.comm == TEMPLATE:
        return {stat.comm, "template"}
    paths = [PurePath(word) for word in (line[0], *script(line))]
    return {stat.comm, *(path.name for path in paths), *(path.stem for path in paths if path.suffix == ".py")}


def script(line: Sequence[str]) -> Iterator[str]:
    """What an interpreter runs: `python -X dev app.py`, `python -m app`, `sh start.sh`."""
    if not PurePath(line[0]).name.startswith(("python", "pypy", "sh", "bash", "dash")):
        return
    rest = iter(line[1:])
    for word in rest:
        if word == "-m":
            yield next(rest, "")
            return
        if word in WITH_A_WORD:
            next(rest, "")
        elif not word.startswith("-"):
            yield word
            return
        elif word == "-c":
            return


def _upwards(pid: int, stats: dict[int, procfs.Stat]) -> Iterator[int]:
    """A process, its parent, and so on."""
    while pid in stats:
        yield pid
        pid = stats[pid].ppid


def _owner(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except FileNotFoundError:
        return None
