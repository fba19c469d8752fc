"""Changing vm.overcommit_memory for moments: one test at a time on the machine, always set back."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

PATH = "/proc/sys/vm/overcommit_memory"


@contextmanager
def overcommit_mode(mode: int) -> Iterator[None]:
    """The machine in this mode, inside. Skips where this user may not change it."""
    try:
        fd = os.open(PATH, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        pytest.skip(f"vm.overcommit_memory cannot be changed here: {error}")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        before = os.pread(fd, 8, 0)
        try:
            os.pwrite(fd, b"%d" % mode, 0)
            yield
        finally:
            os.pwrite(fd, before, 0)
    finally:
        os.close(fd)
