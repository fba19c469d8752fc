"""What this kernel offers, tried once where trying is cheap and harmless.

    >>> from clonal.kernel.probe import KERNEL
    >>> KERNEL.has("memfd")
    True

Each ability can be taken away with the environment variable CLONAL_DISABLE=name,name, so that
every fallback can be tested on a kernel that needs none.

This layer is loaded in templates, where each extension module costs every fork some mappings: it
imports none at its top.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

from clonal.kernel import cgroup, procfs

LARGEST_TO_TRY = 32 << 20
THP = "/sys/kernel/mm/transparent_hugepage"

# Capability numbers (include/uapi/linux/capability.h) of those that change what Clonal can do.
_CAPABILITIES = {
    "kill": 5,
    "ipc_lock": 14,
    "sys_ptrace": 19,
    "sys_admin": 21,
    "sys_nice": 23,
    "sys_resource": 24,
    "perfmon": 38,
    "bpf": 39,
    "checkpoint_restore": 40,
}


@dataclass(frozen=True, slots=True)
class Kernel:
    """The machine and its kernel, as found at the first `probe()` of this process."""

    system: str
    release: str
    version: tuple[int, ...]
    machine: str
    cpu_model: str
    cpus: int
    page_size: int
    hpage_size: int  # of a PMD; 0 without transparent huge pages
    abilities: frozenset[str]
    disabled: frozenset[str]  # what CLONAL_DISABLE took away, known here or not
    capabilities: frozenset[str]
    overcommit_mode: int
    thp_enabled: str
    thp_shmem: str
    memory_cgroup: cgroup.Mount | None
    pids_cgroup: cgroup.Mount | None

    def has(self, ability: str) -> bool:
        """Whether the kernel offers it and CLONAL_DISABLE leaves it. Names: see `ABILITIES`."""
        if ability not in ABILITIES:
            raise ValueError(f"no ability {ability!r}; there are {', '.join(sorted(ABILITIES))}")
        return ability in self.abilities

    @property
    def memfd(self) -> bool:
        return "memfd" in self.abilities

    @property
    def madv_collapse(self) -> bool:
        return "madv_collapse" in self.abilities

    @property
    def madv_populate(self) -> bool:
        return "madv_populate" in self.abilities

    @property
    def pagemap_scan(self) -> bool:
        return "pagemap_scan" in self.abilities

    @property
    def pidfd(self) -> bool:
        return "pidfd" in self.abilities

    @property
    def clone3(self) -> bool:
        return "clone3" in self.abilities

    @property
    def close_range(self) -> bool:
        return "close_range" in self.abilities


def _try_memfd() -> bool:
    os.close(os.memfd_create("clonal-probe", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    return True


def _try_native(name: str, size: int = 0) -> bool:
    from clonal import _native

    return _native.probe_call(name, size)


def _try_collapse() -> bool:
    """Twice the size holds an aligned huge page. With 64 KiB pages that is a gigabyte: then the
    version has to do."""
    size = _hpage_size()
    if size > LARGEST_TO_TRY:
        return _version(os.uname().release) >= (6, 1)
    return size > 0 and _try_native("madv_collapse", 2 * size)


def _try_pidfd() -> bool:
    os.close(os.pidfd_open(os.getpid()))
    return True


ABILITIES: dict[str, Callable[[], bool]] = {
    "memfd": _try_memfd,
    "madv_collapse": _try_collapse,
    "madv_populate": lambda: _try_native("madv_populate", procfs.PAGE),
    "pagemap_scan": lambda: _try_native("pagemap_scan"),
    "pidfd": _try_pidfd,
    "clone3": lambda: _try_native("clone3"),
    "close_range": lambda: _try_native("close_range"),
}


def disabled() -> frozenset[str]:
    """The names in CLONAL_DISABLE; other parts of Clonal have switches of their own there."""
    names = os.environ.get("CLONAL_DISABLE", "").split(",")
    return frozenset(name.strip() for name in names if name.strip())


def _abilities(off: frozenset[str]) -> frozenset[str]:
    found = set()
    for name, attempt in ABILITIES.items():
        with suppress(OSError, AttributeError, ImportError):  # refused, or unknown to this Python
            if name not in off and attempt():
                found.add(name)
    return frozenset(found)


def _file(path: str, default: str = "") -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return default


def _chosen(path: str) -> str:
    """The word in brackets of a sysfs choice."""
    _, _, rest = _file(path).partition("[")
    return rest.partition("]")[0]


def _hpage_size() -> int:
    return int(_file(f"{THP}/hpage_pmd_size", "0"))


def _cpu_model() -> str:
    for line in _file("/proc/cpuinfo").splitlines():
        if line.startswith(("model name", "CPU part")):
            return line.partition(":")[2].strip()
    return "unknown CPU"


def _capabilities() -> frozenset[str]:
    mask = procfs.status().mask("CapEff")
    return frozenset(name for name, bit in _CAPABILITIES.items() if mask >> bit & 1)


def _version(release: str) -> tuple[int, ...]:
    numbers = []
    for word in release.split("-")[0].split("."):
        if not word.isdigit():
            break
        numbers.append(int(word))
    return tuple(numbers)


@cache
def probe() -> Kernel:
    """What this machine offers; tried at the first call, some milliseconds."""
    uname = os.uname()
    linux = sys.platform == "linux"
    off = disabled()
    mounts = cgroup.mounts() if linux else {}
    return Kernel(
        system=uname.sysname,
        release=uname.release,
        version=_version(uname.release),
        machine=uname.machine,
        cpu_model=_cpu_model(),
        cpus=os.cpu_count() or 1,
        page_size=procfs.PAGE,
        hpage_size=_hpage_size(),
        abilities=_abilities(off) if linux else frozenset(),
        disabled=off,
        capabilities=_capabilities() if linux else frozenset(),
        overcommit_mode=int(_file("/proc/sys/vm/overcommit_memory", "0")),
        thp_enabled=_chosen(f"{THP}/enabled"),
        thp_shmem=_chosen(f"{THP}/shmem_enabled"),
        memory_cgroup=mounts.get("memory"),
        pids_cgroup=mounts.get("pids"),
    )


KERNEL: Kernel  # = probe(), at its first use


def __getattr__(name: str) -> Kernel:
    if name == "KERNEL":
        return probe()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def describe() -> str:
    """One line to print beside every figure: machine, kernel, huge-page setting, Python."""
    import platform

    kernel = probe()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    off = f", without {' '.join(sorted(kernel.disabled))}" if kernel.disabled else ""
    return (
        f"{kernel.cpus} × {kernel.cpu_model} ({kernel.machine}), {memory:.0f} GB, "
        f"{kernel.system} {kernel.release}, THP {kernel.thp_enabled or 'none'}, "
        f"{platform.python_implementation()} {platform.python_version()}{off}"
    )
