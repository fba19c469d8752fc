"""Page tables that fork leaves for later, whether shared or still to be copied: one for each 2 MiB."""

from __future__ import annotations

import numpy as np

from clonal.model.flags import ENTRIES
from clonal.model.frames import NO_FRAME
from clonal.model.process import Process
from clonal.model.sets import ascending
from clonal.model.strategies.base import PageNumbers
from clonal.model.vma import Entries


def copied_tables(parent: Process) -> dict[int, int]:
    """For each PTE table that fork copies: how many entries it has in mappings whose entries are copied. By
    the number of the first page ÷ 512. Those in reserve for huge pages hold none: the papers leave entries of
    the level above to fork."""
    found: dict[int, int] = {}
    have = parent.space.tables.at[0] - parent.space.tables.huge
    for vma in parent.space.vmas:
        if not vma.anon_vma or vma.dont_fork or vma.wipe_on_fork:
            continue
        first, last = vma.start // ENTRIES, (vma.end - 1) // ENTRIES
        found.update((table, found.get(table, 0)) for table in range(first, last + 1) if table in have)
        present = (vma.start + np.flatnonzero(vma.frame != NO_FRAME)) // ENTRIES
        for table in have.intersection(ascending(present).tolist()):
            found[table] += int(np.searchsorted(present, table + 1) - np.searchsorted(present, table))
    return found


def changed_tables(process: Process, pages: PageNumbers, write: bool) -> set[int]:
    """The tables in which an access needs an entry to change: all those written to, since they are protected
    as a whole, and those in which a page that is read is not mapped yet."""
    if not write:
        pages = np.concatenate(
            [np.empty(0, np.int64), *(_absent(vma.start, vma.frame, pages) for vma in process.space.vmas)]
        )
    return set(ascending(pages // ENTRIES).tolist())


def _absent(start: int, frame: Entries, pages: PageNumbers) -> PageNumbers:
    here = pages[(pages >= start) & (pages < start + frame.size)]
    absent: PageNumbers = here[frame[here - start] == NO_FRAME]
    return absent
