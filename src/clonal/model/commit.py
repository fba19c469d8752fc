"""Commit: what a process was promised, and when the kernel promises no more (mm/util.c, Documentation/mm/
overcommit-accounting; 6.18)."""

from __future__ import annotations

from clonal.model.errors import CommitRefused
from clonal.model.flags import PAGE, Config, Map, Prot

NEVER = 2  # vm.overcommit_memory: 0 guess, 1 always, 2 never


def accountable(config: Config, prot: Prot, flags: Map) -> bool:
    """Whether a new mapping counts: private and writable, and not NORESERVE, which mode 2 ignores
    (mm/vma.c accountable_mapping, mm/mmap.c do_mmap)."""
    spared = flags & Map.NORESERVE and config.overcommit != NEVER
    return bool(prot & Prot.WRITE) and not flags & Map.SHARED and not spared


def commit_limit(config: Config) -> int:
    """Pages that mode 2 commits at most (vm_commit_limit; no huge pages are set aside)."""
    return config.ram // PAGE * config.overcommit_ratio // 100 + config.swap // PAGE


def check(config: Config, committed: int, pages: int, total_vm: int) -> None:
    """Whether `pages` more may be committed for a process with `total_vm` pages mapped. Raises CommitRefused
    (__vm_enough_memory).

    Mode 0 refuses only what could never fit, mode 1 nothing. Mode 2 keeps a reserve for root, and one for a
    way out of a full machine: at most 1/32 of the process that asks.
    """
    if config.overcommit == 0:
        most = (config.ram + config.swap) // PAGE
        if pages > most:
            raise CommitRefused(pages, most, 0)
    elif config.overcommit == NEVER:
        allowed = commit_limit(config) - min(total_vm // 32, config.user_reserve // PAGE)
        if not config.admin:
            allowed -= config.admin_reserve // PAGE
        if committed + pages >= allowed:
            raise CommitRefused(pages, allowed, committed)
