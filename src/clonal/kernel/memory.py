"""The machine's memory, and what a fork would charge against the commit limit.

The rules are those of `__vm_enough_memory` (mm/util.c) and `dup_mmap` (kernel/fork.c; mm/mmap.c
since 6.14), read in Linux 6.12.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from clonal.kernel import procfs

OVERCOMMIT_GUESS = 0
OVERCOMMIT_ALWAYS = 1
OVERCOMMIT_NEVER = 2


class ForkCharge(NamedTuple):
    """What forking a process adds to Committed_AS, in bytes: in all, and for its largest mapping."""

    total: int
    largest: int


def slurp(path: str) -> bytes:
    """A small file of /proc, /sys or a cgroup, in one read."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 1 << 16)
    finally:
        os.close(fd)


def meminfo() -> dict[str, int]:
    """/proc/meminfo, sizes in bytes."""
    found = {}
    for line in slurp("/proc/meminfo").splitlines():
        key, _, value = line.partition(b":")
        number, *unit = value.split()
        found[key.decode()] = int(number) * (1024 if unit else 1)
    return found


def vm_setting(name: str) -> int:
    """A number in /proc/sys/vm."""
    return int(slurp(f"/proc/sys/vm/{name}"))


def overcommit_mode() -> int:
    """vm.overcommit_memory as it is now."""
    return vm_setting("overcommit_memory")


def commit_reserve(total_vm: int, *, sys_admin: bool) -> int:
    """How far below CommitLimit a process of this size is stopped in mode 2."""
    admin = 0 if sys_admin else vm_setting("admin_reserve_kbytes") * 1024
    return admin + min(total_vm // 32, vm_setting("user_reserve_kbytes") * 1024)


def commit_headroom(total_vm: int, *, sys_admin: bool, info: dict[str, int] | None = None) -> int:
    """What a process of this size may still commit in mode 2; negative when nothing."""
    info = meminfo() if info is None else info
    return info["CommitLimit"] - commit_reserve(total_vm, sys_admin=sys_admin) - info["Committed_AS"]


def fork_charge(pid: int | None = None) -> ForkCharge:
    """What a fork of this process is charged: every accountable mapping in full, touched or not,
    except those of MADV_DONTFORK (those of MADV_WIPEONFORK are charged)."""
    sizes = [entry.vma.size for entry in procfs.smaps(pid) if "ac" in entry.flags and "dc" not in entry.flags]
    return ForkCharge(sum(sizes), max(sizes, default=0))


def largest_charge(pid: int | None = None, *, above: int) -> int:
    """The largest single charge of a fork if it exceeds `above`, else 0; walks page tables only if
    some private mapping is that large (it may reserve nothing; a read-only one may be charged)."""
    if all(vma.size <= above for vma in procfs.maps(pid) if vma.private):
        return 0
    largest = fork_charge(pid).largest
    return largest if largest > above else 0
