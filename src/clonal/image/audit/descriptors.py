"""The open file descriptors of this process, with what a fork would share of each."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from clonal.image.audit.tasks import read

STANDARD = (0, 1, 2)  # inherited on purpose


@dataclass(frozen=True)
class Descriptor:
    fd: int
    target: str  # where /proc/self/fd/N points
    flags: int  # O_*
    offset: int
    mode: int  # st_mode
    size: int
    info: str  # text of its fdinfo

    @property
    def writable(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_RDONLY

    @property
    def appending(self) -> bool:
        return bool(self.flags & os.O_APPEND)

    @property
    def regular(self) -> bool:
        return stat.S_ISREG(self.mode)

    @cached_property
    def head(self) -> bytes:
        """The file's first bytes, by this very descriptor: opening and closing the file anew would
        drop the POSIX locks that this process holds on it."""
        try:
            return os.pread(self.fd, 16, 0)
        except OSError:
            return b""


def descriptors(ignore: Collection[int] = ()) -> list[Descriptor]:
    """All but the ignored ones. The one that lists the directory is gone before it is looked at."""
    found = (_descriptor(fd) for fd in sorted(map(int, os.listdir("/proc/self/fd"))) if fd not in ignore)
    return [one for one in found if one is not None]


def _descriptor(fd: int) -> Descriptor | None:
    try:
        target = os.readlink(f"/proc/self/fd/{fd}")
        status = os.fstat(fd)
    except OSError:
        return None
    info = read(f"fdinfo/{fd}")
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    return Descriptor(
        fd=fd,
        target=target,
        flags=int(fields.get("flags", "0"), 8),
        offset=int(fields.get("pos", "0")),
        mode=status.st_mode,
        size=status.st_size,
        info=info,
    )
