"""Whom the OOM killer takes (mm/oom_kill.c, 6.18)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from clonal.model.flags import PAGE

if TYPE_CHECKING:
    from clonal.model.process import Process

IMMUNE = -1000  # OOM_SCORE_ADJ_MIN


def badness(resident: int, swapped: int, table_bytes: int, adjustment: int, total: int) -> int | None:
    """How bad it would be to spare a process, in pages; None: it is never taken (oom_badness).

    `resident` counts every page that it maps: that others share them does not protect it. `total` is RAM and
    swap, in pages, or the limit of a memory cgroup; its thousandth is a whole number of pages.
    """
    if adjustment == IMMUNE:
        return None
    return resident + swapped + table_bytes // PAGE + adjustment * (total // 1000)


def score(points: int | None, total: int) -> int:
    """/proc/PID/oom_score (fs/proc/base.c proc_oom_score)."""
    if points is None:
        return 0
    thousandths = abs(points) * 1000 // total * (-1 if points < 0 else 1)  # C rounds towards zero
    return int((1000 + thousandths) * 2 / 3)


def points_of(process: Process, total: int | None = None) -> int | None:
    """Of a process of the model, by default as the whole machine sees it. One that borrows its memory by
    vfork is spared (in_vfork)."""
    config = process.machine.config
    if total is None:
        total = (config.ram + config.swap) // PAGE
    if process.borrows:
        return None
    return badness(sum(process.rss), 0, process.page_table_bytes, process.oom_score_adj, total)


def victim(processes: Iterable[Process], total: int | None = None) -> Process | None:
    """The process with most points, the last of equals, so the youngest; None if all are immune
    (select_bad_process, oom_evaluate_task)."""
    chosen, most = None, 0
    for process in processes:
        points = points_of(process, total)
        if points is not None and (chosen is None or points >= most):
            chosen, most = process, points
    return chosen
