"""Sets of page numbers as arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]


def ascending(numbers: npt.ArrayLike) -> Numbers:
    """Each number once, in order: by sorting, since numpy's unique() takes a hundred times as long for a
    million (2.5)."""
    found: Numbers = np.array(numbers, np.int64).ravel()
    if not (found[1:] > found[:-1]).all():
        found.sort()
        found = found[np.concatenate([[True], found[1:] != found[:-1]])]
    return found


def values(small: npt.ArrayLike) -> list[int]:
    """Which small numbers there are, in order: of nodes or groups."""
    return np.flatnonzero(np.bincount(np.asarray(small))).tolist()
