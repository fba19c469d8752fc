"""Reading another process's memory, many small pieces at a time."""

from __future__ import annotations

import ctypes
import errno
import os

import numpy as np
import numpy.typing as npt

from clonal.kernel.probe import disabled

_VECTOR = 1024  # IOV_MAX (limits.h)
ABILITY = "read_memory"  # a name for CLONAL_DISABLE


class MemoryDenied(OSError):
    """process_vm_readv is not allowed (ptrace_scope, seccomp), where pagemap may well be."""


def read_pieces(
    pid: int, addresses: npt.NDArray[np.int64], size: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """`size` bytes at each address, and which of them could be read. Reading what is not in memory would
    bring it there: ask for present pages only."""
    if ABILITY in disabled():
        raise MemoryDenied(errno.EPERM, "switched off by CLONAL_DISABLE")
    count = len(addresses)
    pieces = np.zeros((count, size), np.uint8)
    good = np.zeros(count, bool)
    remote = np.empty((count, 2), np.uint64)  # struct iovec: base, length
    remote[:, 0], remote[:, 1] = addresses, size
    at = 0
    while at < count:
        wanted = min(_VECTOR, count - at)
        done = _read(pid, pieces[at : at + wanted], remote[at : at + wanted]) // size
        good[at : at + done] = True
        at += done if done == wanted else done + 1  # the piece after the last good one is not there
    return pieces, good


def _read(pid: int, into: npt.NDArray[np.uint8], remote: npt.NDArray[np.uint64]) -> int:
    """Bytes read, 0 if the first piece is not there."""
    local = np.array([into.ctypes.data, into.nbytes], np.uint64)
    libc = ctypes.CDLL(None, use_errno=True)
    call = libc.process_vm_readv
    call.restype = ctypes.c_ssize_t
    done: int = call(
        ctypes.c_int(pid),
        ctypes.c_void_p(local.ctypes.data),
        ctypes.c_ulong(1),
        ctypes.c_void_p(remote.ctypes.data),
        ctypes.c_ulong(len(remote)),
        ctypes.c_ulong(0),
    )
    if done >= 0:
        return done
    error = ctypes.get_errno()
    if error == errno.EFAULT:
        return 0
    if error in (errno.EPERM, errno.ENOSYS, errno.EACCES):
        raise MemoryDenied(error, os.strerror(error))
    raise ProcessLookupError(error, f"process {pid} is gone")
