"""What one strategy costs in a given case, all told: for comparing them side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clonal.model.flags import PAGE
from clonal.model.process import Process
from clonal.model.strategies.base import Strategy, Work

NOTHING = np.empty(0, np.int64)


class Bill(NamedTuple):
    """Work by who does it and when, and what memory it took."""

    prepare: Work  # once, before the first fork
    caller: Work  # in fork
    before: Work  # by the child, before it runs
    parent: Work  # afterwards
    child: Work
    frames: int  # more than before the fork
    tables: int  # pages of page tables more than before the fork
    resident: int = 0  # pages that the child maps in the end (RSS)
    huge: int = 0  # huge pages among them


def bill(
    strategy: Strategy,
    build: Callable[[], Process],
    *,
    parent_writes: npt.ArrayLike = NOTHING,
    child_reads: npt.ArrayLike = NOTHING,
    child_writes: npt.ArrayLike = NOTHING,
) -> Bill:
    """Forks once: `build` makes the process, on a machine of its own. Then the parent writes, then the child
    reads and writes. With vfork the parent waits, so it writes last, after the child's exit. Raises whatever
    the machine refuses."""
    parent = build()
    machine = parent.machine
    prepared = strategy.prepare(parent)
    frames, tables = machine.frames.used, parent.page_table_bytes // PAGE
    born = strategy.fork(parent)
    child = born.child
    borrowed = child.borrows
    early = Work() if borrowed else strategy.touch(parent, parent_writes)
    late = strategy.touch(child, child_reads, write=False) + strategy.touch(child, child_writes)
    frames = machine.frames.used - frames
    tables = _tables([parent] if borrowed else [parent, child]) - tables - strategy.saved()
    resident, huge = sum(child.rss), len(child.space.tables.huge)
    if borrowed:
        child.exit()
        early = strategy.touch(parent, parent_writes)
    return Bill(prepared, born.caller, born.before, early, late, frames, tables, resident, huge)


def _tables(processes: list[Process]) -> int:
    return sum(process.page_table_bytes // PAGE for process in processes)
