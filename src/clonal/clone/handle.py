"""Clone: the client's handle of one clone."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

from clonal import _native
from clonal.clone import failure, process, wire
from clonal.clone.process import TemplateProcess
from clonal.errors import (
    CloneDied,
    CloneRefused,
    CloneTimeout,
    ResultNotPicklable,
    TemplateDied,
    WrongProcess,
)

_ENDING_SECONDS = 5.0  # for a clone that has answered to flush and end
_STATUS_SECONDS = 1.0  # between a socket's end and the end of the process that held it
TIMED_OUT = 1


class Usage(NamedTuple):
    """What a clone used from fork to end."""

    cpu_us: int
    minor_faults: int
    max_rss: int


class Clone:
    """A clone at work, or its outcome. Made by `Template.clone`; all methods are thread-safe.

    Leaving `with` kills it if it still runs. A handle that is dropped while its clone runs kills
    the clone, with a ResourceWarning.
    """

    def __init__(
        self, template: TemplateProcess, fd: int, begun_ns: int, timeout: float | None,
        captured: tuple[int, int] | None, told: Callable[[Clone], None] | None = None,
    ) -> None:  # fmt: skip
        self._template = template
        self._owner = template.owner
        self._fd = process.hold(fd)
        self._timeout = timeout
        self._captured = captured
        self._output: tuple[bytes, bytes] | None = None
        self._told = told
        self._lock = threading.Lock()  # held by the thread that reads the socket
        self._guard = threading.Lock()  # held while the descriptors are used or closed
        self._waiting: list[Any] = []
        self._pid = 0
        self._pidfd = -1
        self._introduced = False  # whether the template has sent pid and pidfd
        self._wants_pidfd = False
        self._killed = False
        self._answered = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._ended = False
        self._status: int | None = None
        self.usage: Usage | None = None
        self.begun_ns = begun_ns
        self.started_ns = self.answered_ns = self.ended_ns = 0
        self.imported: list[Any] = []

    # -- waiting ---------------------------------------------------------------------------------

    def _wait_until(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """Reads messages until `ready`; one thread reads at a time and wakes the others."""
        if os.getpid() != self._owner:
            raise WrongProcess(self._owner, os.getpid())
        end = None if timeout is None else time.monotonic() + timeout
        while not ready():
            left = None if end is None else max(0.0, end - time.monotonic())
            if self._lock.acquire(blocking=False):
                try:
                    if not ready() and not self._read_one(left):
                        return False
                finally:
                    self._lock.release()
                    self._wake()
            elif left == 0.0 or not self._follow(ready, left):
                return ready()
        return True

    def _follow(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """Waits until the reading thread has got something. False when the time is up."""
        waker = threading.Lock()
        waker.acquire()
        self._waiting.append(waker)
        try:
            if ready() or not self._lock.locked():
                return True
            return waker.acquire(timeout=-1 if timeout is None else timeout)
        finally:
            self._waiting.remove(waker)

    def _wake(self) -> None:
        for waker in tuple(self._waiting):
            try:
                waker.release()
            except RuntimeError:
                pass  # it has been woken already

    def _read_one(self, timeout: float | None) -> bool:
        """Takes in one message. False when none came in time."""
        if self._ended:
            return True
        milliseconds = -1 if timeout is None else min(int(timeout * 1000 + 0.999), 2**31 - 1)
        try:
            message = _native.wire_next(self._fd, self._template.pidfd, milliseconds)
        except BlockingIOError:
            return True  # another awaiting task was quicker
        if message is None:
            return False
        data, fds = message
        if data:
            self._take(data, fds)
        else:
            self._lost()
        return True

    def _take(self, data: bytes, fds: tuple[int, ...]) -> None:
        kind, flags, _, value, ns = wire.HEAD.unpack_from(data)
        if kind == wire.STARTED:
            self._pid = value
            self._introduced = True
            self.started_ns = self.started_ns or ns
            if fds:
                self._pidfd = process.hold(fds[0])
        elif kind == wire.EXITED:
            self._take_exit(flags, value, ns, data)
        elif kind == wire.REFUSED:
            self._finish(_refusal(value))
        else:
            self._take_answer(kind, flags, value, ns, data, fds)

    def _take_answer(
        self, kind: int, flags: int, notes: int, ns: int, data: bytes, fds: tuple[int, ...]
    ) -> None:
        start = wire.HEAD.size + wire.BIRTH.size
        self._pid, self.started_ns = wire.BIRTH.unpack_from(data, wire.HEAD.size)
        try:
            if notes:
                self.imported = wire.unpack(0, data[start : start + notes], ())
            answer = wire.unpack(flags, data[start + notes :], fds)
            if kind == wire.RESULT:
                self._value = answer
            else:
                self._error = failure.unpack_exception(failure.Failure(*answer))
        except Exception as error:
            self._error = ResultNotPicklable(f"the clone's answer cannot be unpickled here: {error!r}")
            self._error.__cause__ = error
        self.answered_ns = ns
        self._answered = True
        if self._told is not None:
            self._told(self)

    def _take_exit(self, flags: int, status: int, ns: int, data: bytes) -> None:
        cpu, faults, rss = wire.USAGE.unpack_from(data, wire.HEAD.size)
        self.usage = Usage(cpu, faults, rss * 1024)
        self.ended_ns = ns
        self._status = status
        if flags & TIMED_OUT and self._timeout is not None:
            self._finish(CloneTimeout(self._pid, self._timeout, killed=True))
        else:
            oom = not self._killed and self._template.oom is not None and self._template.oom.explains(status)
            self._finish(CloneDied(self._pid, status, oom, self._hint(status)))

    def _hint(self, status: int) -> str:
        if self._template.control < 0:
            return "its template was closed"
        return "it ended without returning" if not status & 0x7F else ""

    def _lost(self) -> None:
        """The socket ended without a word from the template, or the template did."""
        if self._template.ended(_STATUS_SECONDS):
            self._finish(TemplateDied(self._template.pid, self._template.status))
        elif not self._pid:  # the order arrived without its socket
            limit = "open files of the template (RLIMIT_NOFILE)"
            self._finish(CloneRefused(limit, 1, 0, "descriptors", "raise the hard limit"))
        else:
            self._finish(CloneDied(self._pid, None))

    def _finish(self, error: BaseException) -> None:
        """The clone has ended; `error` is its outcome unless it has answered."""
        self._ended = True
        if not self._answered:
            self._error = error
            self._answered = True
            if self._told is not None:
                self._told(self)
        if self._captured is not None:
            self._output = _contents(self._captured)
            self._captured = None
        self._close()

    def _close(self) -> None:
        with self._guard:
            process.release(self._fd)
            self._fd = -1
            if not self._wants_pidfd:
                process.release(self._pidfd)
                self._pidfd = -1

    # -- what users call -------------------------------------------------------------------------

    def _is_answered(self) -> bool:
        return self._answered

    def _is_ended(self) -> bool:
        return self._ended

    def _is_started(self) -> bool:
        return self._pid > 0 or self._ended

    def _is_introduced(self) -> bool:
        return self._introduced or self._ended

    def _ask_started(self, ready: Callable[[], bool]) -> None:
        """The template tells pid and pidfd when it is asked, or with the end of the clone."""
        if not self._poll(ready):
            self._template.ask_started()
            self._wait_until(ready, None)

    def result(self, timeout: float | None = None) -> Any:
        """What the function returned, or its exception raised. Past `timeout` seconds it raises
        CloneTimeout and the clone goes on."""
        if not self._answered and not self._wait_until(self._is_answered, timeout):
            assert timeout is not None
            raise CloneTimeout(self.pid, timeout)
        if self._error is not None:
            raise self._error
        return self._value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What `result` would raise, or None."""
        if not self._wait_until(self._is_answered, timeout):
            assert timeout is not None
            raise CloneTimeout(self.pid, timeout)
        return self._error

    def wait(self, timeout: float | None = None) -> int | None:
        """Waits for the process to end. Its exit code, negative for a signal, None if unknown."""
        if not self._wait_until(self._is_ended, timeout):
            assert timeout is not None
            raise CloneTimeout(self.pid, timeout)
        return self.exitcode

    @property
    def exitcode(self) -> int | None:
        """As of subprocess: negative for a signal. None while the clone runs."""
        self._poll(self._is_ended)
        return None if self._status is None else os.waitstatus_to_exitcode(self._status)

    def done(self) -> bool:
        """Whether `result` would return at once."""
        return self._poll(self._is_answered)

    def _poll(self, ready: Callable[[], bool]) -> bool:
        return ready() or self._wait_until(ready, 0.0)

    @property
    def pid(self) -> int:
        """The clone's process id; 0 if it never began."""
        if not self._pid:
            self._ask_started(self._is_started)
        return self._pid

    @property
    def pidfd(self) -> int:
        """A pidfd, open as long as this handle. Ask for it while the clone runs."""
        self._wants_pidfd = True
        self._ask_started(self._is_introduced)
        if self._pidfd < 0:
            raise ProcessLookupError(f"clone {self._pid} has ended")
        return self._pidfd

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Sends a signal, SIGKILL if none is named. A clone that has ended is no error."""
        self._ask_started(self._is_introduced)
        self._poll(self._is_ended)
        self._killed = True
        with self._guard, contextlib.suppress(ProcessLookupError):
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, signum)
            elif not self._ended:  # before Linux 5.3
                os.kill(self._pid, signum)

    @property
    def stdout(self) -> bytes:
        """What the clone printed, with the option `capture`; waits for its end."""
        return self._captured_output()[0]

    @property
    def stderr(self) -> bytes:
        """What the clone wrote to stderr, with the option `capture`; waits for its end."""
        return self._captured_output()[1]

    def _captured_output(self) -> tuple[bytes, bytes]:
        if self._captured is None and self._output is None:
            raise ValueError("the output was not captured: use t.options(capture=True).clone(…)")
        self._wait_until(self._is_ended, None)
        assert self._output is not None
        return self._output

    def __await__(self) -> Generator[Any, None, Any]:
        from clonal.clone.awaiting import wait_for

        if not self._poll(self._is_answered):
            yield from wait_for(self).__await__()
        return self.result()

    def __enter__(self) -> Clone:
        return self

    def __exit__(self, *_: object) -> None:
        if self._poll(self._is_ended):
            return
        if not self._answered or not self._wait_until(self._is_ended, _ENDING_SECONDS):
            self.kill()
            self._wait_until(self._is_ended, None)

    def __repr__(self) -> str:
        state = "ended" if self._ended else "answered" if self._answered else "running"
        return f"<Clone {self._pid or '(starting)'} {state}>"

    def __del__(self) -> None:
        if getattr(self, "_owner", None) != os.getpid():
            return
        if not self._answered and not self._ended:
            warnings.warn(f"{self!r} was dropped and is killed", ResourceWarning, source=self, stacklevel=2)
        self._wants_pidfd = False
        with self._lock:  # a weak reference still yields this handle while this runs (Template._sweep)
            self._ended = True
            self._close()
        for fd in self._captured or ():
            process.release(fd)


def _contents(fds: tuple[int, int]) -> tuple[bytes, bytes]:
    """What is in the two memfds, which are closed."""
    texts = []
    for fd in fds:
        size = os.fstat(fd).st_size
        texts.append(os.pread(fd, size, 0))
        process.release(fd)
    return texts[0], texts[1]


def _refusal(number: int) -> CloneRefused:
    """What fork's errno means; the limits were read before, so it is one that was just reached."""
    if number == errno.ENOMEM:
        return CloneRefused(
            "memory at fork (ENOMEM)", 1, 0, "clones", "commit limit, or no RAM for page tables"
        )
    if number == errno.EMFILE:
        return CloneRefused("clones of one template", 16385, 16384, "clones", "make a second Template")
    if number == errno.EAGAIN:
        limit = "tasks at fork (EAGAIN: RLIMIT_NPROC, pids cgroup, threads-max or pid_max)"
        return CloneRefused(limit, 1, 0, "tasks")
    return CloneRefused(f"fork ({os.strerror(number)})", 1, 0, "clones")
