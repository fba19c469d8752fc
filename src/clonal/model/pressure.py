"""Accesses when memory runs out: page by page as far as it goes, the OOM killer where it goes no further."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clonal.model.errors import GroupFull, OutOfFrames
from clonal.model.faults import Faults
from clonal.model.process import Process
from clonal.model.sets import ascending


class Pressed(NamedTuple):
    """What came of an access: pages touched, what their faults did, and who was killed for it, in order."""

    touched: int
    faults: Faults
    killed: tuple[Process, ...]


def touch(process: Process, pages: npt.ArrayLike, write: bool = True) -> Pressed:
    """Touches page numbers in ascending order. Whenever there is no frame for the next one the OOM killer
    takes a process, of the full group or of all (mm/memcontrol.c mem_cgroup_out_of_memory, mm/page_alloc.c
    __alloc_pages_may_oom); when it takes this one, that is the end. Raises OutOfFrames or GroupFull where
    there is nobody to kill, Segfault.
    """
    left = ascending(pages)
    total, before = left.size, process.faults
    killed: list[Process] = []
    while left.size and process.exit_code is None:
        try:
            left = left[_as_far_as_it_goes(process, left, write) :]
        except (OutOfFrames, GroupFull) as error:
            group = process.machine.frames.ledger.full if isinstance(error, GroupFull) else None
            taken = process.machine.kill_for_memory(group)
            if taken is None:
                raise
            killed.append(taken)
    made = Faults(*(now - then for now, then in zip(process.faults, before, strict=True)))
    return Pressed(total - left.size, made, tuple(killed))


def _as_far_as_it_goes(process: Process, pages: npt.NDArray[np.int64], write: bool) -> int:
    """Touches as many of the pages as there is memory for, at least one; how many. Raises OutOfFrames,
    GroupFull if there is none for the first. As many are tried at once as there is room for, a quarter where
    that was too much (tables take room too), and twice as many each time that no room was needed."""
    done, step = 0, max(process.room, 1)
    while done < pages.size:
        try:
            process.touch(pages[done : done + step], write)
            done += step
            step = max(process.room, 2 * step)
        except (OutOfFrames, GroupFull):
            if step == 1:
                if done:
                    break
                raise
            step = max(step // 4, 1)
    return min(done, pages.size)
