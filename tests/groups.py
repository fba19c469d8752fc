"""Running a body inside small cgroups, where limits can be hit without hurting the machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from clonal.kernel import cgroup
from tests.support import run_script


@pytest.fixture
def small(request: pytest.FixtureRequest) -> Iterator[list[cgroup.Group]]:
    """Small groups, limits as the parameter says; skips where none can be made."""
    limits: dict[str, Any] = request.param
    try:
        with cgroup.small_group(**limits) as groups:
            yield groups
    except (PermissionError, NotImplementedError) as error:
        pytest.skip(f"no cgroups to make here: {error}")


def in_group(groups: list[cgroup.Group], body: str) -> None:
    """Run a body in a process that has entered the groups."""
    lines = [f"open({group.path + '/cgroup.procs'!r}, 'w').write('0')" for group in groups]
    prelude = """
import os, signal, mmap
from clonal.errors import CloneRefused
from clonal.kernel.headroom import Headroom
from clonal.kernel.oom import OomWatch
MB = 1 << 20
def refused(**what):
    try:
        Headroom().check(**what)
    except CloneRefused as error:
        return error
def write(size):
    pid = os.fork()
    if pid == 0:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        for at in range(0, size, 4096):
            memory[at] = 1
        os._exit(0)
    return os.waitpid(pid, 0)[1]
"""
    run_script(prelude + "\n".join(lines) + "\n" + body)
