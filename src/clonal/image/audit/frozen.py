"""Objects that the audit cannot see."""

from __future__ import annotations

import gc
from collections.abc import Iterator

from clonal.image.audit.hazard import Hazard
from clonal.image.audit.registry import Facts, check

START_UP = 2000  # the interpreter freezes some objects of its own (3.12: 375)


@check()
def frozen_heap(_facts: Facts) -> Iterator[Hazard]:
    """After gc.freeze() the collector lists the objects no longer."""
    frozen = gc.get_freeze_count()
    if frozen > START_UP:
        yield Hazard(
            "frozen-heap",
            "note",
            f"{frozen} objects are frozen and were not looked at",
            "audit before gc.freeze() and freeze(): loops, generators, buffers and locks among the "
            "frozen objects are not found",
        )
