"""Start another program without copying this process: vfork + exec through clone3.

    with clonal.launch(["sort", "-n"], stdin=PIPE, stdout=PIPE) as process: ...

The program starts as fast from a process of many gigabytes as from an empty one, and charges no
commit. Handlers of `os.register_at_fork` do not run, for nothing of this process is forked.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import threading
import warnings
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self, cast

from clonal.clone.streams import DEVNULL, PIPE, STDOUT, Streams
from clonal.kernel.probe import probe

if TYPE_CHECKING:
    import asyncio

__all__ = ["DEVNULL", "PIPE", "STDOUT", "Process", "launch"]

StrPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]
CLD_EXITED = 1

# Processes whose handle was dropped while they ran: reaped by a later launch, as subprocess does.
_dropped: list[tuple[int, int, int]] = []  # (owner, pid, pidfd)


class Process:
    """A program that was started. `returncode` is its exit status, minus the signal that ended it,
    or None while it runs; `note` says why it was started in a slower way, if it was."""

    def __init__(
        self, args: Sequence[StrPath], pid: int, pidfd: int, streams: Streams, note: str | None
    ) -> None:
        self.args = args
        self.pid = pid
        self.pidfd = pidfd
        self.returncode: int | None = None
        self.note = note
        self.stdin, self.stdout, self.stderr = streams.ours
        self._owner = os.getpid()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        state = "running" if self.returncode is None else f"returncode {self.returncode}"
        return f"<Process {self.pid} {self.args!r}: {state}>"

    def poll(self) -> int | None:
        """The return code if the process has ended, else None; reaps it."""
        with self._lock:
            if self.returncode is None and _ended(self.pidfd, 0):
                self.returncode = self._reap()
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raises TimeoutError after `timeout` seconds and leaves it running."""
        if self.returncode is None and not _ended(self.pidfd, timeout):
            raise TimeoutError(f"process {self.pid} has not ended after {timeout:g} s")
        code = self.poll()
        assert code is not None  # a pidfd that was readable once stays so
        return code

    def _reap(self) -> int:
        try:
            result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        except ChildProcessError:
            warnings.warn(
                f"the status of process {self.pid} was taken by somebody else (or SIGCHLD is ignored): "
                "reported as 255",
                RuntimeWarning,
                stacklevel=4,
            )
            return 255
        assert result is not None  # WNOHANG was not asked for
        return result.si_status if result.si_code == CLD_EXITED else -result.si_status

    def send_signal(self, number: int) -> None:
        """Send a signal; nothing happens if the process has ended. The pid is never reused here."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def __await__(self) -> Generator[Any, None, int]:
        """Wait within asyncio; cancelling stops waiting only."""
        if self.poll() is None:
            yield from self._readable().__await__()
        return self.wait()

    async def _readable(self) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        fd = os.dup(self.pidfd)  # a descriptor of its own: several tasks may await one process
        loop.add_reader(fd, _finish, ended)
        try:
            await ended
        finally:
            loop.remove_reader(fd)
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Close the pipes, wait, close the pidfd."""
        try:
            for pipe in (self.stdout, self.stderr, self.stdin):
                if pipe is not None:
                    pipe.close()
        finally:
            self.wait()
            self._close()

    def _close(self) -> None:
        fd, self.pidfd = self.pidfd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        if getattr(self, "pidfd", -1) < 0:
            return
        if self._owner == os.getpid() and self.returncode is None and self.poll() is None:
            _dropped.append((self._owner, self.pid, self.pidfd))
            message = f"process {self.pid} is still running"
            warnings.warn(message, ResourceWarning, stacklevel=2, source=self)
        else:
            self._close()


def _finish(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


def _ended(pidfd: int, timeout: float | None) -> bool:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(None if timeout is None else timeout * 1000))


def _reap_dropped() -> None:
    """Take the status of processes nobody asks about; another process's are no children of ours."""
    for entry in _dropped[:]:
        owner, _, pidfd = entry
        if owner == os.getpid() and not _ended(pidfd, 0):
            continue
        with suppress(ValueError):  # another thread was first
            _dropped.remove(entry)
            if owner == os.getpid():
                with suppress(ChildProcessError):
                    os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
            os.close(pidfd)


def launch(
    argv: Sequence[StrPath],
    *,
    executable: StrPath | None = None,
    env: Mapping[str, str] | Mapping[bytes, bytes] | None = None,
    cwd: StrPath | None = None,
    stdin: int | IO[Any] | None = None,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    pass_fds: Iterable[int] = (),
    cgroup: int | StrPath | None = None,
    new_session: bool = False,
) -> Process:
    """Start a program, found on PATH as subprocess does, and return once it is executing.

    `stdin`, `stdout`, `stderr`: a descriptor, a file, PIPE, DEVNULL, STDOUT (for stderr), or None to
    inherit. Descriptors above 2 are closed except `pass_fds`. `cgroup`: a cgroup v2 directory (or a
    descriptor of one) in which the program starts from its first instruction. What fails in the
    child is raised here as OSError with the file's name. Needs pidfds (Linux 5.3).
    """
    if isinstance(argv, (str, bytes)) or not argv:
        raise TypeError("argv is a list: the program and its arguments")
    _reap_dropped()
    program = argv[0] if executable is None else executable
    sys.audit("clonal.launch", program, argv, cwd, env)
    fds = sorted({int(fd) for fd in pass_fds if fd > 2})
    with Streams(stdin, stdout, stderr) as streams:
        missing = _missing()
        if missing is not None:
            return _launch_by_subprocess(argv, program, env, cwd, streams, fds, cgroup, new_session, missing)
        from clonal import _native

        with _Group(cgroup) as group:
            pid, pidfd = _native.launch(
                os.fsdecode(program),
                _candidates(program, env),
                tuple(os.fsencode(argument) for argument in argv),
                _environment(env),
                None if cwd is None else os.fsencode(cwd),
                *streams.theirs,
                tuple(fds),
                group,
                new_session,
            )
        return Process(argv, pid, pidfd, streams.release(), None)


def _missing() -> str | None:
    """What this kernel lacks of the fast way."""
    kernel = probe()
    lacking = [name for name in ("clone3", "close_range") if not kernel.has(name)]
    if not lacking:
        return None
    off = [name for name in lacking if name in kernel.disabled]
    return f"started by subprocess: {', '.join(lacking)} " + ("switched off" if off else "not in this kernel")


def _candidates(program: StrPath, env: Mapping[str, str] | Mapping[bytes, bytes] | None) -> tuple[bytes, ...]:
    """The paths to try, from the PATH of the new environment (as subprocess does)."""
    name = os.fsencode(program)
    if os.path.dirname(name):
        return (name,)
    return tuple(os.path.join(os.fsencode(folder), name) for folder in os.get_exec_path(env))  # type: ignore[arg-type]


def _environment(env: Mapping[str, str] | Mapping[bytes, bytes] | None) -> tuple[bytes, ...]:
    found = []
    for key, value in (os.environb if env is None else env).items():
        name = os.fsencode(key)
        if b"=" in name or not name:
            raise ValueError(f"illegal name of an environment variable: {key!r}")
        found.append(name + b"=" + os.fsencode(value))
    return tuple(found)


class _Group:
    """The descriptor of a cgroup v2 directory, opened here if it was given as a path; -1 for none."""

    def __init__(self, cgroup: int | StrPath | None) -> None:
        self._given = cgroup
        self._fd = -1

    def __enter__(self) -> int:
        if self._given is None:
            return -1
        if isinstance(self._given, int):
            fd = self._given
        else:
            fd = self._fd = os.open(self._given, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.stat("cgroup.controllers", dir_fd=fd)  # every v2 group has it, no v1 group does
        except OSError:
            self.__exit__()
            why = "it is no cgroup v2 directory, and Linux starts a process in none else"
            raise _no_group(self._given, why) from None
        return fd

    def __exit__(self, *exc: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _no_group(group: int | StrPath | None, why: str) -> OSError:
    hint = "start it without, then write its pid to cgroup.procs"
    name = group if isinstance(group, int) or group is None else os.fsdecode(group)
    return OSError(errno.EOPNOTSUPP, f"cannot launch into cgroup {name}: {why}; {hint}")


def _launch_by_subprocess(
    argv: Sequence[StrPath],
    program: StrPath,
    env: Mapping[str, str] | Mapping[bytes, bytes] | None,
    cwd: StrPath | None,
    streams: Streams,
    fds: list[int],
    cgroup: int | StrPath | None,
    new_session: bool,
    note: str,
) -> Process:
    """The same through subprocess, for kernels without clone3."""
    import subprocess

    if cgroup is not None:
        raise _no_group(cgroup, f"that needs clone3 ({note})")
    stdin, stdout, stderr = (None if fd == -1 else fd for fd in streams.theirs)
    popen = subprocess.Popen(
        argv,
        executable=os.fsdecode(program),
        env=cast(Any, env),
        cwd=cwd,
        pass_fds=fds,
        start_new_session=new_session,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
    )
    pidfd = os.pidfd_open(popen.pid)
    popen.returncode = 0  # ours from here on: its handle must neither warn nor reap
    return Process(argv, popen.pid, pidfd, streams.release(), note)
