"""Cause and type of a write, by the bytes that lay there: the rules of _native/trap_what.c, for many copies
at once. The structures are CPython's (Objects/obmalloc.c, Include/internal/pycore_obmalloc.h,
pycore_object.h): what does not fit is not guessed at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from clonal.observe.analyse import CAUSES
from clonal.observe.record.events import Events, Told
from clonal.observe.record.remote import HAVE_GC, SUBCLASS, Shape

REFCOUNT, GC, ALLOCATOR, INTERPRETER, DATA = (
    CAUSES.index(name)
    for name in ("reference count", "gc header", "allocator metadata", "interpreter internals", "data")
)
POOL, POOL_HEADER, STEP, CLASSES = 1 << 14, 48, 16, 32
HASH = 24  # offset of a str's hash (PyASCIIObject)
GC_HEADER = 16
LONGEST_COUNT, SURE_COUNT = (1 << 32) - 1, (1 << 16) - 1  # no type lies as low as the latter
# In a block the type is a word of the object, behind what comes before it; elsewhere the address is that of
# the count, or of a word of the gc header.
BEGINS = (0, 16, 32)
LOOKS = ((1, REFCOUNT), (3, GC), (2, GC))

ShapeOf = Callable[[int], Shape | None]
Numbers = npt.NDArray[np.int64]


class Verdict:
    """Parallel to the events: cause, the type's address (0: none known), and whether it is in a pool."""

    def __init__(self, count: int) -> None:
        self.cause = np.full(count, DATA, np.uint8)
        self.type = np.zeros(count, np.uint64)
        self.in_pool = np.zeros(count, bool)


def judge(events: Events, shape_of: ShapeOf, code: int, string: int) -> Verdict:
    """`code` and `string` are the addresses of the types of code objects and of strings."""
    made = Verdict(len(events))
    if not len(events):
        return made
    size, made.in_pool = _pools(events)
    offset = (events["address"] & np.uint64(POOL - 1)).astype(np.int64)
    made.cause[made.in_pool & (offset < POOL_HEADER)] = ALLOCATOR
    inside = made.in_pool & (offset >= POOL_HEADER)
    _in_blocks(made, events, np.flatnonzero(inside), size, offset, _Shapes(shape_of), code, string)
    aligned = events["address"] & np.uint64(7) == 0
    outside = ~made.in_pool & aligned & _has(events, Told.AT_READ)
    _by_words(made, events, np.flatnonzero(outside), _Shapes(shape_of))
    kernel = _has(events, Told.BY_KERNEL)
    made.cause[kernel], made.type[kernel] = DATA, 0
    return made


def _has(events: Events, flag: Told) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = events["flags"] & np.uint32(flag) != 0
    return found


def _pools(events: Events) -> tuple[Numbers, npt.NDArray[np.bool_]]:
    """The size of the blocks of each event's pool, and whether it is one."""
    pool = events["pool"].astype(np.int64)
    count, spare, size_class, next_offset, last_offset = (pool[:, at] for at in (0, 1, 9, 10, 11))
    size = (size_class + 1) * STEP
    good = _has(events, Told.POOL_READ) & (size_class < CLASSES) & (last_offset == POOL - size)
    good &= (next_offset <= POOL) & (count <= POOL // size) & (spare == 0)
    return size, good


class _Shapes:
    """Shapes of many candidates: each is looked up once."""

    def __init__(self, shape_of: ShapeOf) -> None:
        self._shape_of = shape_of

    def of(self, candidates: npt.NDArray[np.uint64]) -> tuple[Any, Any, Any, Any]:
        """Whether each is a type, and its presize, size and flags."""
        unique, index = np.unique(candidates, return_inverse=True)
        shapes = [self._shape_of(address) for address in unique.tolist()]
        known = np.array([shape is not None for shape in shapes], bool)
        facts = np.array(
            [(shape.presize, shape.size, shape.flags) if shape else (0, 0, 0) for shape in shapes], np.int64
        ).reshape(-1, 3)[index]
        return known[index], facts[:, 0], facts[:, 1], facts[:, 2]


def _in_blocks(
    made: Verdict, events: Events, rows: Numbers, size: Numbers, offset: Numbers, shapes: _Shapes, code: int,
    string: int,
) -> None:  # fmt: skip
    """The object in each block, and which of its words was written to."""
    rows = rows[_has(events, Told.BLOCK_READ)[rows]]
    for begin in BEGINS:
        if not len(rows):
            return
        candidates = events["block"][rows, begin // 8 + 1]
        known, presize, length, flags = shapes.of(candidates)
        good = known & (presize == begin) & (begin + length <= size[rows])
        found = rows[good]
        made.type[found] = candidates[good]
        at = (offset[found] - POOL_HEADER) % size[found] - begin
        made.cause[found] = _causes(at, candidates[good], flags[good], code, string)
        rows = rows[~good]


def _causes(
    at: Numbers, types: npt.NDArray[np.uint64], flags: Numbers, code: int, string: int
) -> npt.NDArray[np.uint8]:
    """Of a write so many bytes into an object, or before it."""
    collected = (at < 0) & (at >= -GC_HEADER) & (flags & HAVE_GC != 0)
    internal = (types == np.uint64(code)) | ((types == np.uint64(string)) & (at == HASH))
    internal |= flags & SUBCLASS != 0
    conditions = [(at >= 0) & (at < 8), collected, (at >= 8) & internal]
    return np.select(conditions, [REFCOUNT, GC, INTERPRETER], DATA).astype(np.uint8)


def _by_words(made: Verdict, events: Events, rows: Numbers, shapes: _Shapes) -> None:
    """Elsewhere: an object's first words, if the address is one of them."""
    for word, cause in LOOKS:
        if not len(rows):
            return
        candidates = events["at"][rows, word]
        known, _, _, flags = shapes.of(candidates)
        good = known & ((flags & HAVE_GC != 0) if cause == GC else True)
        good &= _are_counts(events["at"][rows, word - 1], shapes)
        made.type[rows[good]], made.cause[rows[good]] = candidates[good], cause
        rows = rows[~good]


def _are_counts(words: npt.NDArray[np.uint64], shapes: _Shapes) -> npt.NDArray[np.bool_]:
    """No count is longer, nor is an immortal one; and types that follow one another are a list's items."""
    found: npt.NDArray[np.bool_] = (words > 0) & (words <= LONGEST_COUNT)
    big = np.flatnonzero(found & (words > SURE_COUNT))
    found[big] = ~shapes.of(words[big])[0]
    return found
