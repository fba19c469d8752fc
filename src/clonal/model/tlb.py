"""Flushes of TLBs, as the kernel asks for them (x86, 6.18), however many CPUs have something to flush."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from clonal.model.flags import Prot
from clonal.model.frames import NO_FRAME, Frames
from clonal.model.tables import Tables
from clonal.model.vma import Bits, Vma


class Tlb:
    """Those of one address space. `cleared` says whether the call that runs changed what a TLB may hold."""

    def __init__(self, frames: Frames, tables: Tables) -> None:
        self.frames, self.tables = frames, tables
        self.flushes = 0
        self.cleared = False

    def flush(self, requests: int = 1) -> None:
        """So many are asked for (arch/x86/mm/tlb.c flush_tlb_mm_range)."""
        self.flushes += requests
        self.frames.flushes += requests

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """All that one call takes away, page tables too, is flushed once, at its end, also if it fails half
        way (mm/mmu_gather.c tlb_finish_mmu, include/asm-generic/tlb.h tlb_flush_mmu_tlbonly)."""
        self.cleared, freed = False, self.tables.freed
        try:
            yield
        finally:
            if self.cleared or self.tables.freed != freed:
                self.flush()


def needs_flush(vma: Vma, prot: Prot, writable: Bits) -> bool:
    """Whether a new protection changes what TLBs may hold of a mapping: permission to write, given or taken,
    or to execute, or all of it. Entries without any permission are in none (mm/mprotect.c change_pte_range,
    arch/x86/include/asm/tlbflush.h pte_needs_flush)."""
    if not vma.prot:
        return False
    if not prot or (vma.prot ^ prot) & Prot.EXEC:
        return bool((vma.frame != NO_FRAME).any())
    return bool((vma.writable != writable).any())
