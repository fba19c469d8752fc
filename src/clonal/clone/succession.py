"""When threads remain in the warm process: a single-threaded child becomes the template."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from typing import NoReturn

from clonal import _native
from clonal.errors import split_status


def succeed() -> list[str]:
    """Returns in a single-threaded child, with the names of the threads that it lacks; this
    process only waits for the child, to pass on how it ended."""
    names = thread_names()
    gone, held = os.pipe()  # closed by exec, which is when this process's memory is free
    parent = os.getpid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        os.close(gone)
        _become_waiter(pid, held)
    _native.die_with_parent(parent)
    os.close(held)
    os.read(gone, 1)
    os.close(gone)
    return names


def thread_names() -> list[str]:
    """The other threads of this process: Python's by their names, native ones by the kernel's."""
    threading = sys.modules.get("threading")
    known = {t.native_id: t.name for t in threading.enumerate()} if threading is not None else {}
    names = []
    for tid in map(int, os.listdir("/proc/self/task")):
        if tid == os.getpid():
            continue
        try:
            with open(f"/proc/self/task/{tid}/comm") as comm:
                names.append(known.get(tid) or comm.read().strip())
        except FileNotFoundError:
            continue
    return names


def _become_waiter(pid: int, held: int) -> NoReturn:
    """Executes the waiter inside the extension module: as a file, or where that may not be executed,
    from memory; else waits as it is, and the memory it shares with the template stays."""
    argv = ["clonal-waiter", str(pid)]
    path = _native.__file__
    with contextlib.suppress(OSError):
        os.execve(path, argv, {})
    with contextlib.suppress(OSError):
        memfd = os.memfd_create("clonal-waiter", os.MFD_CLOEXEC)
        with open(path, "rb") as file:
            os.write(memfd, file.read())
        os.execve(memfd, argv, {})
    os.close(held)
    _, status = os.waitpid(pid, 0)
    code, signum = split_status(status)
    if signum is not None:
        os.kill(os.getpid(), signum)
    os._exit(code or 0)
