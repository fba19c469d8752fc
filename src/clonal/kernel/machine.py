"""Where figures come from: every result carries this."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from clonal.kernel.memory import meminfo


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text("ascii", errors="replace").strip()
    except OSError:
        return None


def _processor() -> str:
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _chosen(setting: str | None) -> str | None:
    """The word in brackets of a sysfs setting such as `always [madvise] never`."""
    if setting is None or "[" not in setting:
        return setting
    return setting.partition("[")[2].partition("]")[0]


def machine() -> dict[str, str | int | None]:
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": meminfo()["MemTotal"],
        "architecture": platform.machine(),
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "compiler": platform.python_compiler(),
        "thp": _chosen(_read("/sys/kernel/mm/transparent_hugepage/enabled")),
        "shmem_thp": _chosen(_read("/sys/kernel/mm/transparent_hugepage/shmem_enabled")),
        "overcommit": _read("/proc/sys/vm/overcommit_memory"),
    }


def sentence(facts: dict[str, str | int | None]) -> str:
    """The machine in one line, for captions."""
    memory = int(facts["memory"] or 0) / 2**30
    return (
        f"{facts['cores']} × {facts['processor']}, {memory:.0f} GiB, Linux {facts['kernel']}, "
        f"{facts['python']}, THP {facts['thp']}"
    )


def busy() -> str | None:
    """Why times taken now would be noisy; None on a quiet machine."""
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load > 0.5 * cores:
        return f"load average {load:.1f} on {cores} cores: other work disturbs the times"
    return None


def supported(verb: str) -> str | None:
    """Why this machine cannot run a verb at all; None if it can."""
    return None if sys.platform == "linux" else f"clonal {verb} needs Linux, this is {sys.platform}"
