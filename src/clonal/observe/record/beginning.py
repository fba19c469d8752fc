"""What every recording begins with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from clonal import _native
from clonal.kernel.machine import machine


def beginning(command: Sequence[str], backend: str, pids: Sequence[int] = ()) -> dict[str, Any]:
    """The facts of a chunk of BEGIN. `pids`: of processes that ran already."""
    return {
        "command": list(command), "machine": machine(), "backend": backend, "pids": list(pids),
        "depth": depth(backend), "time": time.monotonic_ns(), "wall": time.time(),
    }  # fmt: skip


def depth(backend: str) -> int:
    """How many frames of a stack it notes at most."""
    if backend != "bpf":
        return _native.trap_depth()
    from clonal import _bpf

    return _bpf.DEPTH
