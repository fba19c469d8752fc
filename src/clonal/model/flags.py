"""The kernel's words for protections, mappings, advice and kinds of page, and the machine's settings."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeVar

from clonal.model import numa
from clonal.model.errors import BadFlags, BadMachine

PAGE = 4096
ENTRIES = 512  # of a page table
HUGE = ENTRIES  # pages of a huge page
TASK_END = 1 << 47


class Prot(enum.IntFlag):
    """mmap(2), mprotect(2)."""

    NONE = 0
    READ = 1
    WRITE = 2
    EXEC = 4
    RW = READ | WRITE


class Map(enum.IntFlag):
    """mmap(2), as far as it matters here."""

    SHARED = 0x01
    PRIVATE = 0x02
    ANONYMOUS = 0x20
    NORESERVE = 0x4000
    POPULATE = 0x8000


class Advice(enum.IntEnum):
    """madvise(2), as far as it is modelled."""

    DONTNEED = 4
    FREE = 8
    DONTFORK = 10
    DOFORK = 11
    HUGEPAGE = 14
    NOHUGEPAGE = 15
    WIPEONFORK = 18
    KEEPONFORK = 19
    POPULATE_READ = 22
    POPULATE_WRITE = 23
    COLLAPSE = 25


class Clone(enum.IntFlag):
    """clone3(2), as far as it concerns memory."""

    VM = 0x100
    VFORK = 0x4000


Flags = TypeVar("Flags", Prot, Map, Clone)


def known(flags: Flags) -> Flags:
    """The same. Raises BadFlags if there are some that the model does not have."""
    if strange := int(flags) & ~sum(type(flags)):
        raise BadFlags(flags, f"the model does not have {strange:#x}")
    return flags


class Kind(enum.IntEnum):
    """What a page-table entry maps. ZERO is the shared zero page, which is no process's memory."""

    NONE = 0
    ZERO = 1
    FILE = 2
    SHMEM = 3
    ANON = 4


@dataclass(frozen=True)
class Config:
    """A machine. Raises BadMachine.

    Memory, swap and reserves are in bytes. `fault_around`: pages that a read fault of a file maps at once
    (fault_around_bytes ÷ 4 KiB). `overcommit`: vm.overcommit_memory, 0 to 2. `admin`: processes have
    CAP_SYS_ADMIN, for which mode 2 keeps `admin_reserve`. `thp`: transparent_hugepage/enabled. `nodes` share
    the memory evenly; `distances` are theirs, 10 for a node itself and 20 for all others by default.
    `kernel`: the version whose rules hold, from 6.12.
    """

    ram: int = 8 << 30
    swap: int = 0
    fault_around: int = 16
    overcommit: int = 0
    overcommit_ratio: int = 50
    admin_reserve: int = 8 << 20
    user_reserve: int = 128 << 20
    admin: bool = False
    nodes: int = 1
    cpus_per_node: int = 2
    distances: numa.Distances | None = None
    thp: str = "madvise"
    kernel: tuple[int, int] = (6, 18)

    def __post_init__(self) -> None:
        if self.ram < PAGE:
            raise BadMachine("ram", self.ram, f"at least one page ({PAGE} bytes)")
        if self.overcommit not in (0, 1, 2):
            raise BadMachine("overcommit", self.overcommit, "0 (guess), 1 (always) or 2 (never)")
        for name in ("nodes", "cpus_per_node"):
            if getattr(self, name) < 1:
                raise BadMachine(name, getattr(self, name), "1 or more")
        if self.distances is not None:
            numa.checked(self.distances, self.nodes)
        if self.thp not in ("always", "madvise", "never"):
            raise BadMachine("thp", self.thp, "always, madvise or never")
        if self.kernel < (6, 12):
            raise BadMachine("kernel", self.kernel, "at least (6, 12), whose rules are known")
        for name in ("swap", "overcommit_ratio", "admin_reserve", "user_reserve"):
            if getattr(self, name) < 0:
                raise BadMachine(name, getattr(self, name), "0 or more")
        around = self.fault_around
        if not 1 <= around <= ENTRIES or around & (around - 1):
            raise BadMachine("fault_around", around, f"a power of two from 1 to {ENTRIES}")

    @property
    def table(self) -> numa.Distances:
        """The distances between the nodes."""
        if self.distances is None:
            return numa.even(self.nodes)
        return numa.checked(self.distances, self.nodes)
