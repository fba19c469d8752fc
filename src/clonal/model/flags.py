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
    """A machine: memory in bytes, and the pages that a read fault of a file maps around (fault_around_bytes
    ÷ 4 KiB; mm/memory.c do_fault_around). Raises BadMachine."""

    ram: int = 8 << 30
    fault_around: int = 16

    def __post_init__(self) -> None:
        if self.ram < PAGE:
            raise BadMachine("ram", self.ram, f"at least one page ({PAGE} bytes)")
        around = self.fault_around
        if not 1 <= around <= ENTRIES or around & (around - 1):
            raise BadMachine("fault_around", around, f"a power of two from 1 to {ENTRIES}")
