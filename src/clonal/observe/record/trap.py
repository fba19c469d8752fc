"""Whether this machine can record by SIGTRAP, and what a recorded fault costs more."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time

from clonal import _native
from clonal.errors import Error

PAGE = 4096
PAGES = 2048
WHY = {
    errno.EACCES: "kernel.perf_event_paranoid is above 2; run as root, with CAP_PERFMON, or set it to 2",
    errno.EPERM: "perf_event_open is not allowed here (seccomp?); run as root or with CAP_PERFMON",
    errno.EINVAL: "this kernel has no perf events that send SIGTRAP (Linux 5.13)",
    errno.ENOSYS: "this kernel has no perf events",
    errno.ENOENT: "this kernel does not count page faults",
}
MISSING = "CPython 3.11 to 3.13 can be recorded, this is {}"


class CannotRecord(Error):
    """This machine does not let faults be recorded; the message says what to do."""


def require() -> None:
    """Raises CannotRecord."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        raise CannotRecord(MISSING.format(sys.version.split()[0]))
    number = _native.trap_probe()
    if number:
        raise CannotRecord(f"cannot record faults: {WHY.get(number, os.strerror(number))}", errno=number)


def cost() -> float:
    """Nanoseconds that a recorded copy takes more than one that is not: two children copy the same pages, one
    of them recorded."""
    heap = bytearray(PAGE * PAGES)
    heap[::PAGE] = b"1" * PAGES
    plain, recorded = (min(_child(heap, record) for _ in range(3)) for record in (False, True))
    return max(0.0, (recorded - plain) / PAGES)


def _child(heap: bytearray, record: bool) -> int:
    """Nanoseconds of CPU time in which a child writes to each page: others may run meanwhile."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if record:
                _native.trap_start(signal.SIGRTMAX - 3, True)
            start = time.thread_time_ns()
            heap[::PAGE] = b"2" * PAGES
            os.write(writer, str(time.thread_time_ns() - start).encode())
        finally:
            os._exit(0)
    os.close(writer)
    try:
        return int(os.read(reader, 32) or b"0")
    finally:
        os.close(reader)
        os.waitpid(pid, 0)
