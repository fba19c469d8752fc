"""Which anonymous memory holds Python objects: obmalloc's pools, known by their headers.

CPython takes small objects from arenas of 1 MiB, made of pools of 16 KiB aligned to their size, each with a
header that says its size class twice over (Include/internal/pycore_obmalloc.h, the same in 3.10 to 3.13).
An arena itself is aligned to pages only, and adjacent arenas are one mapping. Only pages that are in
memory are looked at: to read another would bring it there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from clonal.kernel.procfs import PAGE, Vma
from clonal.observe.kinds import MemoryKind, Region
from clonal.observe.memory import MemoryDenied, read_pieces

ARENA, POOL = 1 << 20, 1 << 14  # ARENA_BITS 20, POOL_BITS 14 on 64 bits
HEADER = 48  # sizeof(struct pool_header), POOL_OVERHEAD
STEP = 16  # ALIGNMENT: size class i serves objects of (i + 1) * 16 bytes
CLASSES = 32  # NB_SMALL_SIZE_CLASSES: up to 512 bytes
COARSE = 8  # of a long mapping one pool in so many is looked at first
Found = Literal["pool headers", "size and alignment", "no Python"]
Numbers = npt.NDArray[np.int64]


def is_python(vmas: Sequence[Vma]) -> bool:
    """Whether an interpreter, or a library of one, is mapped."""
    return any("python" in vma.path for vma in vmas if vma.path.startswith("/"))


def find_objects(pid: int, regions: Sequence[Region], present: Numbers) -> tuple[list[Region], Found]:
    """The regions, split where anonymous memory holds objects. `present`: numbers of the pages in memory."""
    found: list[Region] = []
    try:
        for region in regions:
            found += _split(pid, region, present) if region.unsure and region.size >= POOL else [region]
    except MemoryDenied:
        return [_by_size(region) for region in regions], "size and alignment"
    return found, "pool headers"


def _by_size(region: Region) -> Region:
    """Adjacent arenas are one mapping of whole megabytes; a large malloc is one page longer."""
    if region.unsure and region.size % ARENA == 0:
        return region._replace(kind=MemoryKind.OBJECTS, name="arenas, by size")
    return region


def _split(pid: int, region: Region, present: Numbers) -> list[Region]:
    inside = present[slice(*np.searchsorted(present, (region.start // PAGE, region.end // PAGE)))]
    parts: list[Region] = []
    at = region.start
    for first, last in _arenas(*_pools(pid, inside[inside % (POOL // PAGE) == 0] * PAGE), region):
        parts.append(region._replace(start=at, end=first))
        parts.append(region._replace(start=first, end=last, kind=MemoryKind.OBJECTS, name="arenas"))
        at = last
    parts.append(region._replace(start=at))
    return [part for part in parts if part.size]


def _pools(pid: int, slots: Numbers) -> tuple[Numbers, Numbers]:
    """Addresses of the pools among these slots, with the number of the arena of each: of many slots, those
    near one that a coarse look has found, or near the ends."""
    if len(slots) <= 4 * ARENA // POOL:
        return _verified(pid, slots)
    hits, _ = _verified(pid, slots[::COARSE])
    near = np.zeros(len(slots), bool)
    near[: ARENA // POOL] = near[-(ARENA // POOL) :] = True
    if len(hits):
        at = np.searchsorted(hits, slots)
        below, above = hits[np.maximum(at - 1, 0)], hits[np.minimum(at, len(hits) - 1)]
        near |= (np.abs(slots - below) <= ARENA) | (np.abs(above - slots) <= ARENA)
    return _verified(pid, slots[near])


def _verified(pid: int, slots: Numbers) -> tuple[Numbers, Numbers]:
    pieces, good = read_pieces(pid, slots, HEADER)
    good &= are_headers(pieces)
    return slots[good], pieces.view(np.uint32)[good, 8].astype(np.int64)


def are_headers(pieces: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Which of these are headers of pools: `maxnextoffset` is the pool's end less one object of its class."""
    words = pieces.view(np.uint32)
    count, size_class, next_offset, last_offset = (words[:, at].astype(np.int64) for at in (0, 9, 10, 11))
    size = (size_class + 1) * STEP
    inside = (next_offset >= HEADER) & (next_offset <= POOL) & (count <= (POOL - HEADER) // size)
    found: npt.NDArray[np.bool_] = (size_class < CLASSES) & (last_offset == POOL - size) & inside
    return found


def _arenas(pools: Numbers, numbers: Numbers, region: Region) -> list[tuple[int, int]]:
    """Where the arenas of these pools lie, adjacent ones together. An arena begins at its first pool or less
    than a pool before it, where nothing is ever written; pools not yet used have no header."""
    spans: list[tuple[int, int]] = []
    first, number = -ARENA, -1
    for pool, arena in zip(pools.tolist(), numbers.tolist(), strict=True):
        if arena == number and pool < first + ARENA:
            continue
        first, number = pool, arena
        if spans and pool - spans[-1][1] < POOL:
            spans[-1] = spans[-1][0], pool + ARENA
        else:
            spans.append((region.start if pool - region.start < POOL else pool, pool + ARENA))
    nexts = [start for start, _ in spans[1:]] + [region.end] * bool(spans)
    return [(start, min(end, after)) for (start, end), after in zip(spans, nexts, strict=True)]
