"""A script as a job: compiled once, run as `__main__` in a process of any kind.

Runs inside clones, so it imports little and makes few objects: what it touches is charged to the
script's private memory.
"""

from __future__ import annotations

import builtins
import marshal
import os
import socket
import sys
import time
from dataclasses import dataclass, replace
from types import CodeType, ModuleType, TracebackType
from typing import Any, NamedTuple

INDEX_VARIABLE = "CLONAL_RUN"  # tells a script which of the N runs it is, from 0
INTERRUPTED = 130  # what a shell reports for a command ended by Ctrl-C


@dataclass(frozen=True, slots=True)
class Job:
    """What to run: `code` is marshalled, since code objects do not pickle."""

    path: str
    args: tuple[str, ...]
    code: bytes
    stdout: str | None = None  # None passes it through; "stderr" or "null" sends it there
    stdin: str | None = None  # a path; None leaves it empty
    gate: str = ""  # where to wait, at the end, to be measured (see gate.py)
    index: int = 0

    @property
    def directory(self) -> str:
        """What `python SCRIPT` puts first on sys.path."""
        return os.path.dirname(os.path.abspath(self.path))

    def numbered(self, index: int, gate: str = "") -> Job:
        """The same job as the `index`-th run."""
        return replace(self, index=index, gate=gate)


class Outcome(NamedTuple):
    """How a run went. Times are CLOCK_MONOTONIC, the same clock in every process."""

    exitcode: int
    started_ns: int  # just before the script's first line
    ended_ns: int  # just after its last one
    pid: int


def compile_script(path: str) -> CodeType:
    """The script's code; a SyntaxError is the user's own."""
    with open(path, "rb") as file:
        return compile(file.read(), path, "exec", dont_inherit=True)


def make_job(path: str, args: tuple[str, ...], stdout: str | None = None) -> Job:
    """Read and compile a script."""
    return Job(path, args, marshal.dumps(compile_script(os.path.abspath(path))), stdout)


def own_stdin() -> str:
    """This process's standard input, as a path for Job.stdin."""
    return f"/proc/{os.getpid()}/fd/0"


def execute(job: Job) -> Outcome:
    """Run the job in this process, which is its own and ends soon after. Never raises."""
    _redirect(job.stdout, job.stdin)
    main = _become_main(job)
    code = marshal.loads(job.code)
    started = time.monotonic_ns()
    exitcode = _run(code, main.__dict__)
    _flush()
    ended = time.monotonic_ns()
    if job.gate:
        wait_at(job.gate)
    return Outcome(exitcode, started, ended, os.getpid())


def wait_at(gate: str) -> None:
    """Wait, alive, until measured (see gate.py); returns at once where the gate is gone."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect("\0" + gate)
            connection.recv(1)
        except OSError:
            pass


def _redirect(stdout: str | None, stdin: str | None) -> None:
    if stdout == "stderr":
        os.dup2(2, 1)
    elif stdout == "null":
        _open_as(1, os.devnull, os.O_WRONLY)
    if stdin is not None:
        try:
            _open_as(0, stdin, os.O_RDONLY)
        except OSError:  # a socket, or closed: stays empty
            pass


def _open_as(number: int, path: str, flags: int) -> None:
    fd = os.open(path, flags)
    os.dup2(fd, number)
    os.close(fd)


def _become_main(job: Job) -> ModuleType:
    """A new `__main__`, sys.argv and sys.path as `python SCRIPT ARGS…` has them."""
    main = ModuleType("__main__")
    main.__dict__.update(__file__=os.path.abspath(job.path), __builtins__=builtins, __cached__=None)
    sys.modules["__main__"] = main
    sys.argv = [job.path, *job.args]
    if sys.path[:1] != [job.directory]:
        sys.path.insert(0, job.directory)
    os.environ[INDEX_VARIABLE] = str(job.index)
    return main


def _run(code: CodeType, namespace: dict[str, Any]) -> int:
    try:
        exec(code, namespace)
    except SystemExit as request:
        return exit_status(request)
    except KeyboardInterrupt:
        return INTERRUPTED  # who pressed Ctrl-C wants no traceback from each of N clones
    except BaseException as error:
        _show(error)
        return 1
    return 0


def exit_status(request: SystemExit) -> int:
    """The exit status Python gives a process that ends by this SystemExit; prints its message."""
    if request.code is None:
        return 0
    if isinstance(request.code, int):
        return request.code & 0xFF
    print(request.code, file=sys.stderr)
    return 1


def _show(error: BaseException) -> None:
    """The user's traceback by the user's excepthook, without the frames that led here."""
    ours = error.__traceback__
    theirs: TracebackType | None = ours.tb_next if ours else None
    sys.excepthook(type(error), error.with_traceback(theirs), theirs)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):  # the reader has left, or the script closed it
            pass
