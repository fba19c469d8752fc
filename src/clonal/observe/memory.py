"""Reading another process's memory, many small pieces at a time."""

from __future__ import annotations

import errno
import os

import numpy as np
import numpy.typing as npt

from clonal.kernel.probe import disabled

ABILITY = "read_memory"  # a name for CLONAL_DISABLE


class MemoryDenied(OSError):
    """Its memory may not be read (ptrace_scope), where pagemap may well be."""


def read_pieces(
    pid: int, addresses: npt.NDArray[np.int64], size: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """`size` bytes at each address, and which of them could be read. Reading what is not in memory would
    bring it there: ask for present pages only. By /proc/PID/mem: process_vm_readv pins what it reads, which
    copies pages that are shared (mm/gup.c gup_must_unshare), and looking would break the sharing."""
    if ABILITY in disabled():
        raise MemoryDenied(errno.EPERM, "switched off by CLONAL_DISABLE")
    pieces = np.zeros((len(addresses), size), np.uint8)
    good = np.zeros(len(addresses), bool)
    fd = _open(pid)
    try:
        for number, address in enumerate(addresses.tolist()):
            good[number] = _read(fd, pieces[number], address)
    finally:
        os.close(fd)
    return pieces, good


def _open(pid: int) -> int:
    try:
        return os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError as error:
        raise MemoryDenied(error.errno, error.strerror) from None
    except FileNotFoundError:
        raise ProcessLookupError(errno.ESRCH, f"process {pid} is gone") from None


def _read(fd: int, into: npt.NDArray[np.uint8], address: int) -> bool:
    """Whether all of the piece is there."""
    try:
        return os.preadv(fd, [into.data], address) == into.nbytes
    except OSError:  # EIO: nothing is mapped there
        return False
