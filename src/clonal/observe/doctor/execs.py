"""A large process that forks only so that another program is executed."""

from __future__ import annotations

from collections.abc import Iterator

from clonal.kernel.procfs import PAGE
from clonal.observe.analyse import Process
from clonal.observe.doctor.copies import SOURCE, Copies, executing
from clonal.observe.doctor.finding import Fact, Finding, Remedy
from clonal.observe.doctor.predicted import borrowed
from clonal.report.table import counted
from clonal.report.words import size

LARGE = 64 << 20  # bytes of page-table entries' worth that a fork copies for nothing


def execs(copies: Copies) -> Iterator[Finding]:
    """vfork copies nothing: the child borrows the parent's memory until it executes (kernel/fork.c)."""
    processes = copies.recording.processes
    only = executing(copies.recording)
    children = [processes[pid] for pid in sorted(only) if processes[pid].generation]
    saved = copies.execs.total() * PAGE
    shared = max((each.shared * PAGE for each in children), default=0)
    if not children or (shared < LARGE and not copies.enough(saved)):
        return
    evidence = (
        Fact(f"{counted(len(children), 'fork')} whose child only executes {_programs(children)}",
             SOURCE),
        Fact(f"each copies the page-table entries of {size(shared)}", SOURCE),
        copies.amount(copies.execs, "by these children, and by the parent since it forked"),
    )  # fmt: skip
    yield Finding("exec", evidence, _remedy(children), saved or None, borrowed(shared))


def _programs(children: list[Process]) -> str:
    named = sorted({each.executes[0] for each in children if each.executes})
    return ", ".join(named[:3]) or "another program"


def _remedy(children: list[Process]) -> Remedy:
    known = [each.executes for each in children if each.executes]
    if not known:
        line = "subprocess.Popen(…, start_new_session=True)  # or process_group=0, umask=…: no preexec_fn"
        return Remedy("where subprocess is given a preexec_fn, which makes it fork", (line,))
    path, *argv = known[0]
    line = f"os.posix_spawn({path!r}, {argv!r}, os.environ)"
    return Remedy("instead of os.fork() and os.exec…(): it returns the child's pid", (line,))
