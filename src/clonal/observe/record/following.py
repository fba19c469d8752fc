"""Recording by eBPF: a command and all that it starts, or a family that runs already."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Protocol

from clonal.observe.family import Unreadable, family
from clonal.observe.record import bpf
from clonal.observe.record.careful import Careful
from clonal.observe.record.events import State
from clonal.observe.record.file import Writer
from clonal.observe.record.run import passing_on
from clonal.observe.record.tracer import Tracer

NICE = -15


class Signal(Protocol):
    """True when it is time to stop, and readable then."""

    def __bool__(self) -> bool: ...
    def fileno(self) -> int: ...


def run(command: Sequence[str], path: Path, limit: int) -> int:
    """Runs it and records; its status as subprocess has it. Raises OSError, CannotRecord."""
    with ExitStack() as stack:
        program = stack.enter_context(closing(bpf.load()))
        tracer = Tracer(program, stack.enter_context(closing(Careful(str(path), limit))))
        passes_on = stack.enter_context(passing_on())
        program.follow(os.getpid(), State.SPAWNER)
        try:
            process = passes_on(subprocess.Popen(command))
        finally:
            program.forget(os.getpid())
        _hurry()
        ended = os.pidfd_open(process.pid)
        stack.callback(os.close, ended)
        bpf.watch(tracer, lambda: process.poll() is not None, [ended])
        tracer.finish()
        return process.returncode


def follow(
    writer: Writer, pids: Sequence[int], without: Sequence[int], ending: Signal, begins: Callable[[int], None]
) -> None:
    """Records these processes and all that they start, until `ending` or until all have ended. It
    `begins` with so many. Raises CannotRecord."""
    with closing(bpf.load()) as program:
        _hurry()
        tracer = Tracer(program, writer)
        while _follow_new(tracer, pids, without):
            pass  # what was forked meanwhile by one that was not followed yet
        begins(len(tracer.processes))
        bpf.watch(tracer, lambda: bool(ending) or not tracer.processes, [ending.fileno()])
        tracer.finish()


def _hurry() -> None:
    """What a process has mapped can be read only as long as it lives: others wait rather than this one."""
    with suppress(OSError):  # it takes CAP_SYS_NICE
        os.setpriority(os.PRIO_PROCESS, 0, NICE)


def _follow_new(tracer: Tracer, pids: Sequence[int], without: Sequence[int]) -> bool:
    """Whether there were members that are not followed."""
    members = []
    for pid in pids:
        with suppress(Unreadable, OSError):  # it has ended
            members += family(pid, without)
    tracer.drain()
    new = [
        member
        for member in members
        if member.pid not in tracer.processes and not tracer.has_ended(member.pid)
    ]
    for member in new:
        tracer.follow(member.pid, member.ppid)
    return bool(new)
