"""The client's side of a template process: starting it, seeing it end, ending it."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading
import time
import warnings
from typing import Any

from clonal import _native
from clonal.clone import wire
from clonal.clone.server import BIND_NOW
from clonal.kernel.oom import OomWatch

_PROGRAM = "from clonal.clone.server import main; main({control}, {board})"
_CLOSE_SECONDS = 10.0

# Every descriptor of this process that leads to a template or clone: a process forked from this
# one must not hold them, or the ends of templates and clones would stay hidden from them.
_open_fds: set[int] = set()


def hold(fd: int) -> int:
    """Notes a descriptor as this process's own."""
    _open_fds.add(fd)
    return fd


def release(fd: int) -> None:
    """Closes a descriptor that was held."""
    if fd in _open_fds:
        _open_fds.discard(fd)
        os.close(fd)


def _forked() -> None:
    for fd in _open_fds:
        with contextlib.suppress(OSError):
            os.close(fd)
    _open_fds.clear()


os.register_at_fork(after_in_child=_forked)


class TemplateProcess:
    """A template process and the descriptors that lead to it. Thread-safe; closed once."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.pid = -1
        self.pidfd = -1
        self.control = -1
        self.board = -1
        self.status: int | None = None
        self.oom: OomWatch | None = None
        self._child = -1  # the process to reap: the template, or its predecessor (succession.py)
        self._popen: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self.sending = threading.Lock()  # held while `control` is used or closed

    def start(self, env: dict[str, str | None] | None) -> None:
        """Starts a fresh interpreter as the template process."""
        theirs = self._open_channel()
        try:
            program = _PROGRAM.format(control=theirs, board=self.board)
            flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
            self._popen = subprocess.Popen(
                [sys.executable, *flags, "-c", program],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs, self.board),
                env=_environment(env),
            )
        finally:
            os.close(theirs)
        self._began(self._popen.pid)

    def fork(self) -> tuple[int, int] | None:
        """Forks this process: None in it, and (control, board) in the template-to-be."""
        theirs = self._open_channel()
        board = os.dup(self.board)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # threads: the user is told by name
                pid = os.fork()
            if pid == 0:  # what is held is closed by now
                return theirs, board
        finally:
            if os.getpid() == self.owner:
                os.close(theirs)
                os.close(board)
        self._began(pid)
        return None

    def _open_channel(self) -> int:
        control, theirs = _native.wire_pair()
        self.control = hold(control)
        self.board = hold(_native.board_new())
        return theirs

    def _began(self, pid: int) -> None:
        self.pid = self._child = pid
        self.pidfd = hold(os.pidfd_open(pid))

    def configure(self, config: Any) -> None:
        """Sends the configuration of a started template."""
        wire.send(self.control, wire.REQUEST, config)

    def next_message(self, timeout: float | None) -> tuple[bytes, tuple[int, ...]] | None:
        """What the template says; empty when it has died, None when the time is up."""
        return _native.wire_next(self.control, self.pidfd, -1 if timeout is None else int(timeout * 1000))

    def ask_started(self) -> None:
        """Makes the template tell which clones have started. Nothing happens if it is gone."""
        with self.sending, contextlib.suppress(OSError):
            if self.control >= 0:
                _native.wire_send(self.control, b"?", b"", ())

    def became(self, pid: int, pidfd: int) -> None:
        """The template proper is another process than the one that was started."""
        old, self.pid, self.pidfd = self.pidfd, pid, hold(pidfd)
        release(old)

    def ended(self, seconds: float = 0.0) -> bool:
        """Whether the template process has ended, waiting up to `seconds` for it."""
        if self.status is not None:
            return True
        if self.pidfd < 0:
            return True
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        if not poll.poll(seconds * 1000):
            return False
        self._reap(1.0)
        return True

    def _reap(self, seconds: float) -> None:
        """Takes the exit status of the process that was started."""
        end = time.monotonic() + seconds
        with self._lock:
            while self.status is None:
                try:
                    pid, status = os.waitpid(self._child, os.WNOHANG)
                except ChildProcessError:
                    return  # somebody else's waitpid(-1) took it
                if pid:
                    self.status = status
                    if self._popen is not None:
                        self._popen.returncode = os.waitstatus_to_exitcode(status)
                elif time.monotonic() >= end:
                    return
                else:
                    time.sleep(0.001)

    def kill(self) -> None:
        """Ends the template at once; its clones follow it."""
        for pid in {self.pid, self._child} - {-1}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        self.ended(_CLOSE_SECONDS)

    def close(self) -> None:
        """Lets the template end (it kills its clones and runs its exit functions) and reaps it."""
        with self.sending:
            control, self.control = self.control, -1
        if control >= 0:
            release(control)
        if self._child > 0 and not self.ended(_CLOSE_SECONDS):
            self.kill()
        self._reap(1.0)
        with self._lock:
            board, self.board = self.board, -1
        if board >= 0:
            release(board)

    def __del__(self) -> None:
        if os.getpid() == self.owner:
            for fd in (self.control, self.board, self.pidfd):
                release(fd)


def _environment(env: dict[str, str | None] | None) -> dict[str, str]:
    """This process's environment with `env` laid over it.

    LD_BIND_NOW: functions bound lazily would be bound anew in every clone, which writes to their
    tables and searches the symbols of every library. The template removes it again.
    """
    merged: dict[str, str | None] = {**os.environ, **(env or {})}
    merged.setdefault("LD_BIND_NOW", BIND_NOW)
    return {name: value for name, value in merged.items() if value is not None}
