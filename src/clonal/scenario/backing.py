"""The files that a scenario's regions map, with every page in the page cache."""

from __future__ import annotations

import os
import tempfile

PAGE = 4096


class Backing:
    """Files by name, made when first mapped; each page is a folio of its own and not zero."""

    def __init__(self) -> None:
        self._fds: dict[tuple[str, str], int] = {}
        self.on_tmpfs = False  # where the files on disk are in truth shared memory

    def file(self, name: str, pages: int) -> int:
        """A file on disk, with no name there."""
        return self._get("file", name, pages)

    def memfd(self, name: str, pages: int) -> int:
        return self._get("memfd", name, pages)

    def _get(self, what: str, name: str, pages: int) -> int:
        key = (what, name)
        if key not in self._fds:
            self._fds[key] = self._disk() if what == "file" else os.memfd_create("clonal-scenario")
        self._fill(self._fds[key], pages)
        return self._fds[key]

    def _disk(self) -> int:
        fd = os.open(tempfile.gettempdir(), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self.on_tmpfs = _filesystem(fd) in ("tmpfs", "ramfs")
        return fd

    def _fill(self, fd: int, pages: int) -> None:
        """By single pages: a longer write would make folios of many pages, where the file system has
        them, and a fault maps a whole folio."""
        for page in range(os.fstat(fd).st_size // PAGE, pages):
            os.pwrite(fd, b"c" * PAGE, page * PAGE)

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()


def _filesystem(fd: int) -> str:
    """The type of the file system that holds an open file; "" if the mount is not ours to see."""
    device = os.fstat(fd).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo") as mounts:
        for line in mounts:
            left, _, right = line.partition(" - ")
            if left.split()[2] == wanted:
                return right.split()[0]
    return ""
