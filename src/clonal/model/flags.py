"""The kernel's words for protections, mappings, advice and kinds of page, and the machine's settings."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from clonal.model.errors import BadMachine

PAGE = 4096
ENTRIES = 512  # of a page table
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
    DONTFORK = 10
    DOFORK = 11
    WIPEONFORK = 18
    KEEPONFORK = 19
    POPULATE_READ = 22
    POPULATE_WRITE = 23


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
    CAP_SYS_ADMIN, for which mode 2 keeps `admin_reserve`.
    """

    ram: int = 8 << 30
    swap: int = 0
    fault_around: int = 16
    overcommit: int = 0
    overcommit_ratio: int = 50
    admin_reserve: int = 8 << 20
    user_reserve: int = 128 << 20
    admin: bool = False

    def __post_init__(self) -> None:
        if self.ram < PAGE:
            raise BadMachine("ram", self.ram, f"at least one page ({PAGE} bytes)")
        if self.overcommit not in (0, 1, 2):
            raise BadMachine("overcommit", self.overcommit, "0 (guess), 1 (always) or 2 (never)")
        for name in ("swap", "overcommit_ratio", "admin_reserve", "user_reserve"):
            if getattr(self, name) < 0:
                raise BadMachine(name, getattr(self, name), "0 or more")
        around = self.fault_around
        if not 1 <= around <= ENTRIES or around & (around - 1):
            raise BadMachine("fault_around", around, f"a power of two from 1 to {ENTRIES}")
