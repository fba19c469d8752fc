"""`clonal record` by eBPF: a command and all that it starts, or processes that run already."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from clonal.observe.family import Member
from clonal.observe.record import bpf
from clonal.observe.record.events import State
from clonal.observe.record.file import Kind, Writer
from clonal.observe.record.run import passing_on
from clonal.observe.record.tracer import Tracer


class Careful(Writer):
    """Where it cannot write on, it says so once, and the recorded processes go on."""

    failed = False

    def write(self, kind: Kind, data: dict[str, Any], records: bytes = b"", pid: int | None = None) -> None:
        if self.failed:
            return
        try:
            super().write(kind, data, records, pid)
        except OSError as error:
            self.failed = True
            print(f"clonal record: {self.path}: {error.strerror}: recording ends here", file=sys.stderr)


def run(command: Sequence[str], path: Path, limit: int) -> int:
    """Runs it and records; its status as subprocess has it. Raises OSError, CannotRecord."""
    with ExitStack() as stack:
        program = stack.enter_context(closing(bpf.load()))
        tracer = Tracer(program, stack.enter_context(closing(Careful(str(path), limit))))
        program.follow(os.getpid(), State.SPAWNER)
        try:
            process = subprocess.Popen(command)
        finally:
            program.forget(os.getpid())
        ended = os.pidfd_open(process.pid)
        stack.callback(os.close, ended)
        with passing_on(process):
            bpf.watch(tracer, lambda: process.poll() is not None, [ended])
        tracer.finish()
        return process.returncode


def follow(members: Sequence[Member], path: Path, limit: int, duration: float | None) -> None:
    """Records these processes and all that they start, until an interruption, for so many seconds, or until
    all have ended. Raises CannotRecord."""
    with ExitStack() as stack:
        program = stack.enter_context(closing(bpf.load()))
        tracer = Tracer(program, stack.enter_context(closing(Careful(str(path), limit))))
        interrupted = stack.enter_context(Interruption())
        generations: dict[int, int] = {}
        for member in members:
            generations[member.pid] = generations.get(member.ppid, -1) + 1
            tracer.follow(member.pid, member.ppid, generations[member.pid])
        until = None if duration is None else time.monotonic() + duration
        bpf.watch(tracer, lambda: bool(interrupted) or not tracer.processes or _past(until), [])
        tracer.finish()


def _past(until: float | None) -> bool:
    return until is not None and time.monotonic() >= until


class Interruption:
    """True once this process was asked to end."""

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self._asked

    def __enter__(self) -> Interruption:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, *_signal: object) -> None:
        self._asked = True
