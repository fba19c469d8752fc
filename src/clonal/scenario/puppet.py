"""Puppets: processes that do to their memory what they are told, and nothing else (_native/puppet.c)."""

from __future__ import annotations

import errno
import os
import select
import signal
import struct
import subprocess
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from socket import AF_UNIX, SCM_RIGHTS, SOCK_SEQPACKET, SOL_SOCKET, socketpair
from socket import socket as Socket
from types import TracebackType
from typing import NamedTuple

from clonal import _native
from clonal.scenario.errors import PuppetLost

PATIENCE = 20.0  # seconds for one operation


class Op(IntEnum):
    """`enum op` of puppet.c."""

    READ = 0
    WRITE = 1
    FORK = 2
    VFORK = 3
    EXEC = 4
    EXIT = 5
    MMAP = 6
    MUNMAP = 7
    MREMAP = 8
    MPROTECT = 9
    MADVISE = 10
    MLOCK = 11
    MUNLOCK = 12
    WAIT = 13


PAGE = 4096
_SCRATCH = 0x1000_0000_0000  # a page of the stage's own, below the window of the regions
_DONTFORK = 10

_HEAD = struct.Struct("=8q")  # op, six arguments, the number of ranges
_RANGE = struct.Struct("=2q")
_ANSWER = struct.Struct("=4q")
_RANGES = 120  # RANGES of puppet.c


class Answer(NamedTuple):
    """What an operation gave: a result or -errno, the signal that it died of, its faults."""

    result: int
    signal: int
    minor: int
    major: int


@dataclass
class Puppet:
    """A puppet and the socket that drives it. `pid` is as we see it."""

    pid: int
    socket: Socket
    pidfd: int

    @classmethod
    def behind(cls, ours: Socket) -> Puppet:
        """The puppet at the other end of a socket, once it has said hello."""
        try:
            pid = _hear(ours, 0).result
            return cls(pid, ours, os.pidfd_open(pid))
        except BaseException:
            ours.close()
            raise

    def call(self, op: Op, *args: int, fd: int | None = None) -> Answer:
        """One operation: a system call, whose fifth argument is `fd` if given."""
        self.send(op, *args, fd=fd)
        return self.hear()

    def touch(self, op: Op, address: int, ranges: Sequence[tuple[int, int]]) -> Answer:
        """Reads or writes one byte of each page of (first page, pages) from an address on."""
        total = Answer(0, 0, 0, 0)
        for at in range(0, len(ranges), _RANGES):
            part = ranges[at : at + _RANGES]
            data = _HEAD.pack(op, address, 0, 0, 0, 0, 0, len(part))
            self._send(data + b"".join(_RANGE.pack(*item) for item in part))
            answer = self.hear()
            total = Answer(*(a + b for a, b in zip(total, answer, strict=True)))
            if answer.signal:
                return answer
        return total

    def send(self, op: Op, *args: int, fd: int | None = None) -> None:
        """Starts an operation that is answered later, or never."""
        self._send(_HEAD.pack(op, *args, *[0] * (6 - len(args)), 0), fd)

    def _send(self, data: bytes, fd: int | None = None) -> None:
        rights = [] if fd is None else [(SOL_SOCKET, SCM_RIGHTS, array("i", [fd]))]
        try:
            self.socket.sendmsg([data], rights)
        except OSError as error:
            raise PuppetLost(self.pid, errno.errorcode.get(error.errno or 0, str(error))) from None

    def hear(self) -> Answer:
        """The answer to what was sent."""
        return _hear(self.socket, self.pid)

    def spawn(self, op: Op = Op.FORK) -> Puppet:
        """Forks it. For Op.VFORK the caller takes the parent's own answer when the child is gone."""
        ours, theirs = _pair()
        with theirs:
            try:
                self.send(op, fd=theirs.fileno())
            except BaseException:
                ours.close()
                raise
        try:
            if op is Op.FORK and (pid := self.hear().result) < 0:
                raise OSError(-pid, os.strerror(-pid))
        except BaseException:
            ours.close()
            raise
        return Puppet.behind(ours)

    def exit(self, code: int = 0) -> None:
        """Lets it exit; returns when its memory is given back, since that comes before its files
        (kernel/exit.c do_exit: exit_mm, then exit_files)."""
        self.send(Op.EXIT, code)
        self.await_end()

    def await_end(self) -> None:
        """Waits for the end of its socket."""
        try:
            data = self.socket.recv(_ANSWER.size)
        except ConnectionError:
            return
        except TimeoutError:
            raise PuppetLost(self.pid, f"did not end within {PATIENCE:g} s") from None
        if data:
            raise PuppetLost(self.pid, "answered instead of ending")

    def kill(self) -> None:
        """Ends it whatever it does, and closes what we hold of it; may be called twice."""
        if self.pidfd < 0:
            return
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        select.select([self.pidfd], [], [], PATIENCE)
        self.close()

    def close(self) -> None:
        """Closes what we hold of it; a puppet that still lives exits then."""
        self.socket.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def _pair() -> tuple[Socket, Socket]:
    ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
    ours.settimeout(PATIENCE)
    return ours, theirs


def _hear(ours: Socket, pid: int) -> Answer:
    try:
        data = ours.recv(_ANSWER.size)
    except TimeoutError:
        raise PuppetLost(pid, f"no answer within {PATIENCE:g} s") from None
    except ConnectionError:
        data = b""
    if not data:
        raise PuppetLost(pid, "ended unasked")
    return Answer(*_ANSWER.unpack(data))


class Stage:
    """The first puppet: all others are forked from it, and it inherits their orphans, so that none
    is left over. It takes part in no scenario itself."""

    def __init__(self) -> None:
        ours, theirs = _pair()
        with theirs:
            try:
                self._process = _execute(theirs)
            except BaseException:
                ours.close()
                raise
        try:
            self._puppet = Puppet.behind(ours)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        self._puppet.call(Op.MMAP, _SCRATCH, PAGE, 3, 0x22, -1, 0)
        self._puppet.call(Op.MADVISE, _SCRATCH, PAGE, _DONTFORK)

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._puppet.pid

    def spawn(self) -> Puppet:
        """A new process with nothing mapped but what every puppet has."""
        return self._puppet.spawn()

    def drain(self) -> None:
        """Empties this CPU's batches of pages on their way to another LRU list. A page in one has a
        reference more and would be copied, not reused (mm/memory.c wp_can_reuse_anon_folio drains
        them only for a page on no list yet; mm/mlock.c mlock_folio holds pages that are on one).
        mm/mlock.c mlock_vma_pages_range does it, 6.18."""
        self._puppet.call(Op.MLOCK, _SCRATCH, PAGE)
        self._puppet.call(Op.MUNLOCK, _SCRATCH, PAGE)

    def reap(self) -> None:
        """Takes away the orphans that have ended; all others must have been ended before."""
        while self._puppet.call(Op.WAIT, -1).result > 0:
            pass

    def close(self) -> None:
        self._puppet.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _execute(theirs: Socket) -> subprocess.Popen[bytes]:
    """Executes the program inside the extension module: as a file, or where that may not be executed,
    from memory."""
    try:
        return _popen(_native.__file__, theirs)
    except PermissionError:
        memfd = os.memfd_create("clonal-puppet", os.MFD_CLOEXEC)
        try:
            with open(_native.__file__, "rb") as file:
                os.write(memfd, file.read())
            return _popen(f"/proc/{os.getpid()}/fd/{memfd}", theirs)
        finally:
            os.close(memfd)


def _popen(path: str, theirs: Socket) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["clonal-puppet", "stage"],
        executable=path,
        stdin=theirs.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
