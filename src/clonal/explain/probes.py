"""What else is looked at on the running kernel: each gives one line."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Callable

from clonal.kernel import memory
from clonal.scenario import KernelRunner

_WAYS = {0: "guess", 1: "always", 2: "never"}
_GIB = 1 << 30


def _living(kernel: KernelRunner) -> list[tuple[str, int]]:
    return [(who, kernel.pid(who)) for who in kernel.regions]


def oom_scores(kernel: KernelRunner) -> str:
    """What /proc says of each process."""
    scores = []
    for who, pid in _living(kernel):
        scores.append(f"{who} {memory.slurp(f'/proc/{pid}/oom_score').decode().strip()}")
    thousandth = _all(memory.meminfo()) // mmap.PAGESIZE // 1000
    shown = ", ".join(scores)
    return f"/proc/PID/oom_score here: {shown} (666, and ⅔ more for each {thousandth:,} points)"


def no_huge_pages() -> str:
    """Why MADV_HUGEPAGE does nothing here; "" if it does."""
    try:
        setting = memory.slurp("/sys/kernel/mm/transparent_hugepage/enabled").decode()
    except OSError:
        return "it has no transparent huge pages (CONFIG_TRANSPARENT_HUGEPAGE)"
    return "transparent_hugepage/enabled is set to never" if "[never]" in setting else ""


def nodes(_kernel: KernelRunner) -> str:
    """What this machine can show of nodes."""
    try:
        online = memory.slurp("/sys/devices/system/node/online").decode().strip()
    except OSError:
        why = "this kernel knows of no nodes"
    else:
        only = f"this machine has nodes {online}, but the puppets stay on one CPU"
        why = "this machine has only one" if online == "0" else only
    return f"not compared: on which node a frame lies, since {why}; all else is"


def numa_maps(kernel: KernelRunner) -> str:
    """On which nodes the first region of each process lies."""
    found = []
    for who, pid in _living(kernel):
        for region in kernel.regions[who].values():
            prefix = b"%x " % region.address
            for line in _numa_maps(pid):
                if line.startswith(prefix):
                    nodes = [word.decode() for word in line.split() if word[:1] == b"N" and b"=" in word]
                    found.append(f"{who} {' '.join(nodes) or 'nothing'}")
    return f"/proc/PID/numa_maps here: {', '.join(found) or 'there is none'}"


def _numa_maps(pid: int) -> list[bytes]:
    """Its lines; none where the kernel has no such file (CONFIG_NUMA)."""
    try:
        return memory.slurp(f"/proc/{pid}/numa_maps").splitlines()
    except FileNotFoundError:
        return []


def commit_mode(_kernel: KernelRunner) -> str:
    """How this machine is set, and what it has promised."""
    info, mode = memory.meminfo(), memory.overcommit_mode()
    return (
        f"here: vm.overcommit_memory={mode} ({_WAYS.get(mode, '?')}), Committed_AS "
        f"{info['Committed_AS'] / _GIB:.2f} GiB, RAM and swap {_all(info) / _GIB:.2f} GiB"
    )


def _all(info: dict[str, int]) -> int:
    return info["MemTotal"] + info["SwapTotal"]


def commit_one(_kernel: KernelRunner) -> str:
    """Asks for three quarters of RAM and swap, touches nothing, gives it back."""
    return _ask(_all(memory.meminfo()) * 3 // 4)


def commit_too_much(_kernel: KernelRunner) -> str:
    """Asks for more than RAM and swap."""
    return _ask(_all(memory.meminfo()) + _GIB)


def _ask(size: int) -> str:
    size -= size % mmap.PAGESIZE
    before = memory.meminfo()["Committed_AS"]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    got = libc.mmap(
        None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0
    )
    asked = f"here (vm.overcommit_memory={memory.overcommit_mode()}), a request for {size / _GIB:.2f} GiB"
    if got in (None, ctypes.c_void_p(-1).value):
        return f"{asked}: {os.strerror(ctypes.get_errno())}"
    added = memory.meminfo()["Committed_AS"] - before
    libc.munmap(got, size)
    return f"{asked}: granted, Committed_AS +{added / _GIB:.2f} GiB, given back untouched"


_COUNTS = """
import os, resource
objects = [float(n) for n in range(200_000)]
raw = bytearray(24 * len(objects))

def read_objects():
    for each in objects:
        pass

def read_bytes():
    raw.count(1)

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for work in read_objects, read_bytes:
    pid = os.fork()
    if not pid:
        before = faults()
        work()
        os.write(1, b"%d\\n" % (faults() - before))
        os._exit(0)
    os.waitpid(pid, 0)
"""


def refcount(_kernel: KernelRunner) -> str:
    """Faults of a child of a real interpreter that only reads."""
    done = subprocess.run([sys.executable, "-I", "-c", _COUNTS], capture_output=True, text=True, timeout=60)
    objects, raw = done.stdout.split()
    return (
        f"CPython {sys.version.split()[0]} here: a forked child that reads a list of 200,000 floats takes "
        f"{int(objects):,} faults, one that reads a bytearray of the same size {int(raw):,}"
    )


PROBES: dict[str, Callable[[KernelRunner], str]] = {
    "oom_scores": oom_scores,
    "nodes": nodes,
    "numa_maps": numa_maps,
    "commit_mode": commit_mode,
    "commit_one": commit_one,
    "commit_too_much": commit_too_much,
    "refcount": refcount,
}
