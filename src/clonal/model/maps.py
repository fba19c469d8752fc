"""What a mapping looks like in a dump (fs/proc/task_mmu.c show_map_vma)."""

from __future__ import annotations

import numpy as np

from clonal.model.flags import PAGE, Prot
from clonal.model.frames import NO_FRAME, ZERO_FRAME
from clonal.model.huge import large_entries
from clonal.model.space import AddressSpace
from clonal.model.vma import Vma

MOST = 64  # pages shown


def line(space: AddressSpace, vma: Vma) -> str:
    """A mapping with its first pages, each one letter (Process.maps says which)."""
    rights = "".join(c if vma.prot & bit else "-" for c, bit in zip("rwx", Prot, strict=False))
    present = vma.frame != NO_FRAME
    shown = np.full(vma.pages, ".")
    shown[present] = "c" if vma.prot & Prot.WRITE and not vma.shared else "r"
    shown[vma.frame == ZERO_FRAME] = "0"
    shown[vma.writable] = "w"
    if space.tables.huge:
        large = large_entries(space.tables, vma)
        shown[large] = np.char.upper(shown[large])
    pages = "".join(shown[:MOST]) + ("…" if vma.pages > MOST else "")
    sharing = "s" if vma.shared else "p"
    name = f" file {vma.file.inode}" if vma.file is not None else ""
    return f"{vma.start * PAGE:012x}-{vma.end * PAGE:012x} {rights}{sharing} {pages}{name}"
