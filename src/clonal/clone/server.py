"""The template process: warms up as told, freezes, and makes a clone for every order."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from clonal import _native
from clonal.clone import births, ending, failure, wire

BIND_NOW = "clonal"  # any value but an empty one counts


@dataclass
class Config:
    """What the client tells its template; see Template for the meaning."""

    sys_path: list[str] | None
    argv: list[str] | None
    cwd: str | None
    main: tuple[str, str] | None
    preload: list[str]
    setup: str | bytes | None  # bytes: a pickle for later, as of launching._for_later
    freeze: dict[str, Any] | bytes | None  # the same; None: no image (to compare with)
    standby: int
    by_value: bool
    stale: bool
    env: dict[str, str | None] | None = None
    here: bool = False
    dropped: list[str] = field(default_factory=list)  # threads that the fork of `here` left behind
    record: str | None = None
    private_fds: tuple[int, ...] = ()  # the template's own: no hazard


@dataclass
class Ready:
    """What the template tells its client when it is warm."""

    pid: int
    report: Any = None
    hazards: list[Any] = field(default_factory=list)
    dropped_threads: list[str] = field(default_factory=list)
    files: Any = None


class WarmupFailed(Exception):
    """Which part of the warm-up failed; the cause is the user's exception."""

    def __init__(self, what: str, frames: int = 0) -> None:
        super().__init__(what)
        self.what = what
        self.frames = frames


@contextlib.contextmanager
def blame(what: str) -> Iterator[None]:
    """Names the part of the warm-up that an exception came from."""
    try:
        yield
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        raise WarmupFailed(what) from error


def main(control: int, board: int) -> NoReturn:
    """The process that a Template starts: its configuration comes over the control socket."""
    if os.environ.get("LD_BIND_NOW") == BIND_NOW:
        del os.environ["LD_BIND_NOW"]  # it was for this process alone
    births.lighten()
    for fd in (control, board):
        os.set_inheritable(fd, False)  # what the warm-up starts must not hold them
    message, fds = _native.wire_receive(control)
    if not message:
        os._exit(0)
    _, flags, _, _, _ = wire.HEAD.unpack_from(message)
    with _reported(control):
        with blame("reading its configuration"):
            config = Config(*wire.unpack(flags, message[wire.HEAD.size :], fds))
            config.private_fds = (control, board)
        ready = _warm(config)
    serve(control, board, config, ready)


@contextlib.contextmanager
def _reported(control: int) -> Iterator[None]:
    """Sends what a warm-up raises to the client and ends the process."""
    try:
        yield
    except WarmupFailed as error:
        cause = error.__cause__ or error
        report = (error.what, failure.pack_exception(cause, 1))
        with contextlib.suppress(ConnectionError):
            wire.send(control, wire.FAILED, wire.pack(report))
        ending.end_process(1)
    except BaseException as error:
        with contextlib.suppress(ConnectionError):
            wire.send(control, wire.FAILED, wire.pack(("warm-up", failure.pack_exception(error))))
        ending.end_process(1)


def _warm(config: Config) -> Ready:
    from clonal.clone import warmup

    return warmup.warm(config)


def serve(control: int, board: int, config: Config, ready: Ready) -> NoReturn:
    """Tells the client and waits for its orders; in every clone does its work. Never returns."""
    try:
        pidfd: tuple[int, ...] = (os.pidfd_open(os.getpid()),)
    except OSError:
        pidfd = ()
    try:
        wire.send(control, wire.READY, wire.pack(ready), more_fds=pidfd)
    except ConnectionError:
        ending.end_process(0)
    wire.close_all(pidfd)
    first_private = _highest_fd() + 16
    _settle(ready)
    if not config.here:
        ending.leave_to_this_process()
    _native.serve(
        control, board, first_private, config.standby, births.single_threaded(), ending.only_flushes()
    )
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    ending.end_process(0)


def _settle(ready: Ready) -> None:
    """Images what Python wrote since the freeze, so that each fork finds next to no pages of its own. With
    4 KiB pages that would be the whole heap again."""
    if ready.report is not None and ready.report.huge_bytes:
        from clonal.image.freeze import settle

        settle()


def _highest_fd() -> int:
    return max(map(int, os.listdir("/proc/self/fd")))
