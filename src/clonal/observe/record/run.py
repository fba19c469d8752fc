"""`clonal record -- CMD`: runs a command with the hook in each of its Python processes."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import clonal
from clonal.errors import Error
from clonal.observe.record import hook
from clonal.observe.record.beginning import beginning
from clonal.observe.record.file import LIMIT, Kind, Writer
from clonal.observe.record.keeper import Keeper, make_room

SITE = Path(__file__).resolve().parent / "site"
PACKAGE = Path(clonal.__file__).resolve().parent.parent
Command = subprocess.Popen[bytes]
PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class CannotBegin(Error):
    """The recording cannot be written, or the command not be run: nothing has happened yet."""

    def __init__(self, name: str, why: str | None) -> None:
        super().__init__(f"{name}: {why}", name=name, why=why)


def record(command: Sequence[str], path: Path, limit: int = LIMIT, backend: str = "sigtrap") -> int:
    """Runs it and returns its exit status as a shell has it: 128 + the signal that ended it. Raises
    CannotBegin. An end that cannot be written is told."""
    writer = begun(command, path, limit, backend)
    run = _followed if backend == "bpf" else _hooked
    try:
        try:
            status = run(command, path, writer, backend)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise CannotBegin(command[0], f"cannot be run: {_why(error)}") from None
        try:
            writer.write(Kind.END, {"time": time.monotonic_ns(), "status": status}, pid=0)
        except OSError as error:
            print(f"clonal record: {path} has no end: {error.strerror}", file=sys.stderr)
    finally:
        writer.close()
    return status if status >= 0 else 128 - status


def begun(command: Sequence[str], path: Path, limit: int, backend: str, pids: Sequence[int] = ()) -> Writer:
    """The recording with its beginning, in place of one of this name. `pids`: that ran already. Raises
    CannotBegin."""
    facts = beginning(command, backend, pids)
    try:
        path.unlink(missing_ok=True)
        writer = Writer(str(path), limit)
        writer.write(Kind.BEGIN, facts, pid=0)
    except OSError as error:
        raise CannotBegin(str(path), f"{error.strerror}; give another file with -o") from None
    return writer


def _why(error: OSError) -> str:
    """Why a file that may be executed was not."""
    if error.errno == errno.ENOEXEC:
        return "it is neither a program nor a script that begins with #!; give its interpreter before it"
    if error.errno == errno.ENOENT:
        return "the interpreter that its first line names is not there"
    return error.strerror or str(error)


def environment(path: Path, limit: int, backend: str) -> dict[str, str]:
    """That of the recorded command: this one, and the hook on the path of its Pythons."""
    paths = [str(SITE), str(PACKAGE), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        hook.ENVIRONMENT: str(path.resolve()),
        hook.LIMIT: str(limit),
        hook.BACKEND: backend,
    }


def _hooked(command: Sequence[str], path: Path, writer: Writer, backend: str) -> int:
    """Its processes record themselves."""
    with contextlib.closing(Keeper(writer)) as keeper:
        env = environment(path, writer.limit, backend) | {hook.KEEPER: keeper.address}
        with passing_on() as passes_on:
            process = passes_on(subprocess.Popen(command, env=env))
            make_room()  # not sooner: the command has its own limit
            return process.wait()


def _followed(command: Sequence[str], path: Path, writer: Writer, _backend: str) -> int:
    """Its processes are recorded from outside."""
    from clonal.observe.record import following  # it wants numpy

    return following.run(command, path, writer.limit)


@contextlib.contextmanager
def passing_on() -> Iterator[Callable[[Command], Command]]:
    """Signals that ask this process to end or to reload are the command's, which is told of by a call of what
    this yields; those of the terminal it has itself. What is ignored here (nohup) stays so, for both."""
    came: list[int] = []
    commands: list[Command] = []

    def pass_on(number: int, _frame: object) -> None:
        if not commands:
            came.append(number)
        elif number not in (signal.SIGINT, signal.SIGQUIT) and commands[0].poll() is None:
            commands[0].send_signal(number)

    def to(command: Command) -> Command:
        commands.append(command)
        for number in came:
            pass_on(number, None)
        return command

    heeded = [number for number in PASSED_ON if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, pass_on) for number in heeded}
    try:
        yield to
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
