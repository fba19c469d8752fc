"""What a machine shows after a step."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Shown(IntEnum):
    """What maps a page."""

    NONE = 0
    ZERO = 1  # the zero page, small or huge
    FILE = 2  # page cache, of a file or of shared memory
    ANON = 3
    ZERO_OR_ANON = 4  # without privilege, before Linux 6.7


class Outcome(NamedTuple):
    """How a step ended: "ok", an errno's name, "SIGSEGV", or "dead" for a step of a process that a
    signal ended; the minor faults of the process that took it, None where they are not counted."""

    result: str = "ok"
    minor: int | None = None


class Rss(NamedTuple):
    """Resident pages by kind."""

    anon: int
    file: int
    shmem: int


@dataclass(frozen=True)
class RegionView:
    """The pages of a region, one element each. `frame` is the PFN or the model's number, -1 where there
    is none or it is not shown; only which are equal means something. `alone` is pagemap's bit 56:
    mapped by one page-table entry only."""

    kind: NDArray[np.uint8]
    frame: NDArray[np.int64]
    alone: NDArray[np.bool_]
    huge: NDArray[np.bool_]


@dataclass(frozen=True)
class ProcessView:
    """A living process: its regions by name, and its counters without what every puppet needs for
    itself. `charged` are the pages of its mappings that count in Committed_AS."""

    regions: dict[str, RegionView]
    rss: Rss
    page_tables: int  # bytes
    charged: int


@dataclass(frozen=True)
class Observation:
    """The whole machine after a step. `committed` is what the step added to Committed_AS, in pages; of
    the kernel's, whatever else ran at that moment is in it, and what every puppet has for itself."""

    outcome: Outcome
    processes: dict[str, ProcessView] = field(default_factory=dict)
    committed: int = 0
    frames_shown: bool = True
