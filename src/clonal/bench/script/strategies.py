"""Four ways to start a Python process that runs a script, behind one interface.

Each says of a run when it was called, when the script's first line ran, and when the caller had
seen the process end. All of them run the script by the same function (job.execute), except that
`cold` is timed as the plain `python SCRIPT` a user would type.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol

from clonal.bench.script import job as jobs_module
from clonal.bench.script import warm
from clonal.bench.script.job import Job, Outcome, execute
from clonal.clone.handle import Clone
from clonal.clone.template import Template
from clonal.errors import CloneDied, split_status


class Timing(NamedTuple):
    """One run. `exitcode` is negative for a signal, as subprocess has it."""

    start: float | None  # seconds from the call to the script's first line
    finish: float  # seconds from the call until the caller has seen the process end
    exitcode: int


class Batch(Protocol):
    """Runs started together."""

    def wait(self) -> None:
        """Wait for all of them."""


class Strategy(Protocol):
    """A way to start processes."""

    name: str

    def run(self, job: Job) -> Timing:
        """Run one job to its end."""

    def start(self, jobs: Sequence[Job]) -> Batch:
        """Start several at once."""

    def processes(self) -> list[int]:
        """Pids of the long-lived processes the strategy keeps; their children are the runs."""

    def close(self) -> None:
        """End what it keeps, and what still runs."""


def exit_code(status: int) -> int:
    """A wait status as subprocess's returncode."""
    code, signum = split_status(status)
    return -signum if signum is not None else int(code or 0)


class Cold:
    """`python SCRIPT`: nothing is kept warm."""

    name = "cold"

    def __init__(self, environ: dict[str, str]) -> None:
        self._environ = environ
        self._started: list[subprocess.Popen[bytes]] = []

    def _popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """In a process group of its own: Ctrl-C is for us, `close` ends what it should end."""
        self._started = [process for process in self._started if process.returncode is None]
        self._started.append(subprocess.Popen([sys.executable, *command], process_group=0, **options))
        return self._started[-1]

    def run(self, job: Job) -> Timing:
        env = {**os.environ, jobs_module.INDEX_VARIABLE: str(job.index)}
        start = self._interpreter_start(env)
        out = {None: None, "null": subprocess.DEVNULL, "stderr": sys.stderr}[job.stdout]
        called = time.monotonic_ns()
        process = self._popen([job.path, *job.args], env=env, stdin=subprocess.DEVNULL, stdout=out)
        code = process.wait()
        return Timing(start, (time.monotonic_ns() - called) / 1e9, code)

    def _interpreter_start(self, env: dict[str, str]) -> float:
        """Seconds to the first line of a script; a process of its own, so that the timed script
        stays as it is."""
        called = time.monotonic_ns()
        line = "import time; print(time.monotonic_ns())"
        output = subprocess.run([sys.executable, "-c", line], env=env, check=True, capture_output=True)
        return (int(output.stdout) - called) / 1e9

    def start(self, jobs: Sequence[Job]) -> Batch:
        return ProcessBatch([self._worker(job) for job in jobs])

    def _worker(self, job: Job) -> subprocess.Popen[bytes]:
        code = "import pickle, sys; job, run = pickle.load(sys.stdin.buffer); run(job)"
        worker = self._popen(["-c", code], env=self._environ, stdin=subprocess.PIPE)
        assert worker.stdin is not None
        worker.stdin.write(pickle.dumps((job, execute)))
        worker.stdin.close()
        return worker

    def processes(self) -> list[int]:
        return []

    def close(self) -> None:
        for process in self._started:
            kill_group(process)


class ProcessBatch:
    """subprocess.Popen objects as a batch."""

    def __init__(self, processes: list[subprocess.Popen[bytes]]) -> None:
        self._processes = processes

    def wait(self) -> None:
        for process in self._processes:
            process.wait()


class Forkserver:
    """multiprocessing's forkserver; its preload list imports a module that does the warm-up."""

    name = "forkserver"

    def __init__(self, environ: dict[str, str], preload: Sequence[str], setup: str | None) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([warm.__name__, jobs_module.__name__])
        with patched_environ({**environ, **warm.describe(preload, setup)}), stand_in_main():
            forkserver.ensure_running()
        self._call(os.getpid).join()  # the first answer comes when the server is warm

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        process = self._context.Process(target=function, args=args)
        with stand_in_main():
            process.start()
        return process

    def run(self, job: Job) -> Timing:
        receiver, sender = self._context.Pipe(duplex=False)
        called = time.monotonic_ns()
        process = self._call(report, job, sender)
        sender.close()
        try:
            outcome: Outcome | None = receiver.recv()
        except EOFError:
            outcome = None
        process.join()
        finish = (time.monotonic_ns() - called) / 1e9
        receiver.close()
        if outcome is None:
            return Timing(None, finish, process.exitcode)
        return Timing((outcome.started_ns - called) / 1e9, finish, process.exitcode or outcome.exitcode)

    def start(self, jobs: Sequence[Job]) -> Batch:
        return ForkserverBatch([self._call(execute, job) for job in jobs])

    def processes(self) -> list[int]:
        return [self._server._forkserver_pid]

    @property
    def _server(self) -> Any:
        return forkserver._forkserver  # multiprocessing has no public handle

    def close(self) -> None:
        for process in multiprocessing.active_children():
            process.kill()
        self._server._stop()
        resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


def report(job: Job, sender: multiprocessing.connection.Connection) -> None:
    """In a forkserver's child: run the job and send how it went."""
    sender.send(execute(job))


class ForkserverBatch:
    """multiprocessing processes as a batch."""

    def __init__(self, processes: list[Any]) -> None:
        self._processes = processes

    def wait(self) -> None:
        for process in self._processes:
            process.join()


class Fork:
    """os.fork in a warm process after gc.freeze(); timed from just before the call."""

    name = "os.fork"

    def __init__(self, environ: dict[str, str], preload: Sequence[str], setup: str | None) -> None:
        ours, theirs = socket.socketpair()
        self._connection = multiprocessing.connection.Connection(ours.detach())
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "clonal.bench.script.forker", str(theirs.fileno())],
                env={**environ, **warm.describe(preload, setup)},
                pass_fds=[theirs.fileno()],
                process_group=0,
            )
        self._connection.recv()  # warm

    def run(self, job: Job) -> Timing:
        batch = self.start([job])
        batch.wait()
        called, started, finished, status = batch.answers[0]
        start = None if started is None else (started - called) / 1e9
        return Timing(start, (finished - called) / 1e9, exit_code(status))

    def start(self, jobs: Sequence[Job]) -> ForkBatch:
        self._connection.send(jobs)
        return ForkBatch(self._connection)

    def processes(self) -> list[int]:
        return [self._process.pid]

    def close(self) -> None:
        self._connection.close()
        kill_group(self._process)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a group, and all of the group."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class ForkBatch:
    """What the forking process answers about a list of jobs."""

    def __init__(self, connection: multiprocessing.connection.Connection) -> None:
        self._connection = connection
        self.answers: list[tuple[int, int | None, int, int]] = []

    def wait(self) -> None:
        self.answers = self._connection.recv()


class CloneOf:
    """A clone of a template."""

    name = "clone"

    def __init__(self, template: Template) -> None:
        self._template = template

    def run(self, job: Job) -> Timing:
        return run_clone(self._template, job)

    def start(self, jobs: Sequence[Job]) -> Batch:
        return CloneBatch([self._template.clone(execute, job) for job in jobs])

    def processes(self) -> list[int]:
        return [self._template.pid]

    def close(self) -> None:
        pass  # the template is the caller's


def run_clone(template: Template, job: Job) -> Timing:
    """One clone that runs a job, to its end."""
    called = time.monotonic_ns()
    clone = template.clone(execute, job)
    try:
        outcome: Outcome | None = clone.result()
    except CloneDied:
        outcome = None
    code = clone.wait() or (outcome.exitcode if outcome else 0)
    finish = (time.monotonic_ns() - called) / 1e9
    return Timing((outcome.started_ns - called) / 1e9 if outcome else None, finish, code)


class CloneBatch:
    """Clones as a batch."""

    def __init__(self, clones: list[Clone]) -> None:
        self._clones = clones

    def wait(self) -> None:
        for clone in self._clones:
            clone.wait()


@contextmanager
def patched_environ(environ: dict[str, str]) -> Iterator[None]:
    """os.environ replaced for a moment: the forkserver takes no environment."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def stand_in_main(file: str | None = None) -> Iterator[None]:
    """For a moment another `__main__`: this command's own would be imported into what is started.
    multiprocessing imports none that has no file; Template none whose file is only a <name>."""
    before = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    if file is not None:
        sys.modules["__main__"].__file__ = file
    try:
        yield
    finally:
        sys.modules["__main__"] = before


def environment(script: str) -> dict[str, str]:
    """The environment of processes that run a script: its folder and this package are importable."""
    package = str(Path(__file__).resolve().parents[3])
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = [str(Path(script).resolve().parent), *given, package]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(filter(None, paths)))}
