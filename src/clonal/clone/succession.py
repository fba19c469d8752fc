"""When threads remain in the warm process: a single-threaded child becomes the template."""

from __future__ import annotations

import os
import sys
import warnings
from typing import NoReturn

from clonal.errors import split_status


def succeed() -> list[str]:
    """Returns in a single-threaded child, with the names of the threads that it lacks; this
    process only waits for the child, to pass on how it ended."""
    names = thread_names()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        _wait_for(pid)
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


def _wait_for(pid: int) -> NoReturn:
    _, status = os.waitpid(pid, 0)
    code, signum = split_status(status)
    if signum is not None:
        os.kill(os.getpid(), signum)
    os._exit(code or 0)
