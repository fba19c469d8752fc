"""Which frames the members of a family share, counted by sorting.

Every page of every member becomes one number: frame, member, flags and kind, from the highest bits to
the lowest. Sorted, the pages of a frame are neighbours, and every figure is a sum over neighbours.
(numpy sorts a million such numbers in 6 ms; its unique() takes a hundred times as long.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clonal.observe.kinds import KINDS
from clonal.observe.pages import EXCLUSIVE, HUGE, SWAPPED, ZERO, Numbers
from clonal.observe.reading import Reading, is_anonymous, private_file

# Bits of a key below the frame.
_KIND_BITS, _FLAG_BITS, _MEMBER_BITS = 4, 2, 16
_FLAGS_AT = _KIND_BITS
_MEMBER_AT = _KIND_BITS + _FLAG_BITS
_FRAME_AT = _MEMBER_AT + _MEMBER_BITS  # 22: leaves 42 bits, frames of 16 PiB
_ALONE, _DIVERGED = 1 << _FLAGS_AT, 2 << _FLAGS_AT
MOST_MEMBERS = 1 << _MEMBER_BITS

Keys = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int64]  # members × kinds
MOST_SETS = 4096  # sets of sharers told apart in `sharers`
BLOCK = 1 << 21  # cells of a matrix of doubles: 16 MB


@dataclass(frozen=True)
class Sharers:
    """Frames that exactly these members map: how many."""

    members: tuple[int, ...]
    pages: int


@dataclass
class Counted:
    """Pages by member and kind. What frames are needed for is None where they are not shown."""

    present: Counts
    exclusive: Counts
    shared: Counts
    elsewhere: Counts | None
    copied: Counts
    swapped: Counts
    huge: Counts
    zero: Counts
    distinct: Counts | None = None  # frames by kind
    matrix: npt.NDArray[np.int64] | None = None
    sharers: list[Sharers] | None = None
    index: FrameIndex | None = None


@dataclass(frozen=True)
class FrameIndex:
    """Each frame once, ascending, with the number of its set of sharers: a row of `sets`, which has a column
    for each member."""

    frame: Numbers
    set_of: Numbers
    sets: npt.NDArray[np.bool_]


def diverged(child: Reading, parent: Reading) -> npt.NDArray[np.bool_]:
    """Which anonymous pages of a forked child have another frame than the parent has at their address; in a
    private mapping of a file also those where the parent has none. Where frames are not shown: those that are
    the child's alone."""
    mine, theirs = child.pages, parent.pages
    at = np.minimum(np.searchsorted(theirs.number, mine.number), max(len(theirs) - 1, 0))
    if not len(theirs):
        return np.zeros(len(mine), bool)
    there = (theirs.number[at] == mine.number) & (theirs.flags[at] & (SWAPPED | ZERO) == 0)
    filed = private_file(child)[child.region_of_pages()]
    other = np.where(mine.frame > 0, theirs.frame[at] != mine.frame, mine.flags & EXCLUSIVE != 0)
    return is_anonymous(mine) & np.where(there, other, filed)


def count(
    readings: Sequence[Reading],
    forked: Sequence[int | None],
    shown: bool,
    index: bool = False,
    part: bool = False,
) -> Counted:
    """The figures of a family. `forked`: for each member the index of the parent that it was forked from.
    `part`: it has members that are not among these. What one of them may share with a child is then not taken
    for the child's copy: where the parent has written, its other children have the old frame too."""
    apart = [
        np.zeros(len(each.pages), bool) if parent is None else diverged(each, readings[parent])
        for each, parent in zip(readings, forked, strict=True)
    ]
    if part:
        apart = [
            moved & (each.pages.flags & EXCLUSIVE != 0) for each, moved in zip(readings, apart, strict=True)
        ]
    found = _by_flags(readings, apart)
    if shown:
        _by_frames(found, readings, apart, forked, index)
    return found


def _by_flags(readings: Sequence[Reading], apart: Sequence[npt.NDArray[np.bool_]]) -> Counted:
    """All that one member's pages say by themselves."""

    def counted(select: Any) -> Counts:
        rows = [
            np.bincount(r.kinds[select(r, d)], minlength=len(KINDS))
            for r, d in zip(readings, apart, strict=True)
        ]
        return np.array(rows, np.int64).reshape(len(readings), len(KINDS))

    present = counted(lambda r, d: r.pages.flags & (SWAPPED | ZERO) == 0)
    exclusive = counted(lambda r, d: r.pages.flags & (SWAPPED | EXCLUSIVE) == EXCLUSIVE)
    return Counted(
        present=present,
        exclusive=exclusive,
        shared=present - exclusive,
        elsewhere=None,
        copied=counted(lambda r, d: d),
        swapped=counted(lambda r, d: r.pages.flags & SWAPPED != 0),
        huge=counted(lambda r, d: r.pages.flags & (HUGE | ZERO) == HUGE),
        zero=counted(lambda r, d: r.pages.flags & ZERO != 0),
    )


def _keys(readings: Sequence[Reading], apart: Sequence[npt.NDArray[np.bool_]]) -> Keys:
    parts = []
    for number, (each, moved) in enumerate(zip(readings, apart, strict=True)):
        real = each.pages.flags & (SWAPPED | ZERO) == 0
        key = each.pages.frame[real].astype(np.uint64) << np.uint64(_FRAME_AT)
        low = each.kinds[real] | ((each.pages.flags[real] & EXCLUSIVE) << np.uint8(_FLAGS_AT))
        low |= moved[real].astype(np.uint8) << np.uint8(_FLAGS_AT + 1)
        key |= low.astype(np.uint64)
        key |= np.uint64(number << _MEMBER_AT)
        parts.append(key)
    keys = np.concatenate(parts)
    keys.sort()
    return keys


def _by_frames(
    found: Counted,
    readings: Sequence[Reading],
    apart: Sequence[npt.NDArray[np.bool_]],
    forked: Sequence[int | None],
    index: bool,
) -> None:
    members = len(readings)
    keys = _keys(readings, apart)
    if not len(keys):
        found.elsewhere, found.distinct = np.zeros_like(found.present), np.zeros(len(KINDS), np.int64)
        found.matrix, found.sharers = np.zeros((members, members), np.int64), []
        found.index = FrameIndex(np.empty(0, np.int64), np.empty(0, np.int64), np.zeros((1, members), bool))
        return
    owner = keys >> np.uint64(_MEMBER_AT)  # frame and member
    frame = owner >> np.uint64(_MEMBER_BITS)
    new_owner = np.concatenate([[True], owner[1:] != owner[:-1]])
    starts = np.flatnonzero(np.concatenate([[True], frame[1:] != frame[:-1]]))
    sizes = np.diff(np.append(starts, len(keys)))
    mapped_by = np.add.reduceat(new_owner.astype(np.int64), starts)
    cell = ((keys >> np.uint64(_MEMBER_AT)) & np.uint64(MOST_MEMBERS - 1)).astype(np.int64) * len(KINDS)
    cell += (keys & np.uint64((1 << _KIND_BITS) - 1)).astype(np.int64)

    def table(which: npt.NDArray[np.bool_]) -> Counts:
        return np.bincount(cell[which], minlength=members * len(KINDS)).reshape(members, len(KINDS))

    single = np.repeat(mapped_by == 1, sizes)
    once = np.repeat(sizes == 1, sizes)  # one that maps a frame twice has no mark of being its only owner
    alone = single & ((keys & np.uint64(_ALONE) != 0) | ~once)
    found.shared, found.exclusive = table(~single), table(alone)
    found.elsewhere = found.present - found.shared - found.exclusive
    found.copied = _copied(keys, starts, sizes, cell, forked, table)
    found.distinct = np.bincount(cell[starts] % len(KINDS), minlength=len(KINDS))
    _sets(found, keys, starts, mapped_by, new_owner, members, index)


def _copied(
    keys: Keys, starts: Numbers, sizes: Numbers, cell: Numbers, forked: Sequence[int | None], table: Any
) -> Counts:
    """A frame that one member has apart from its parent is its copy. One that several children still share,
    but not the parent, is the old one: the parent has copied."""
    moved = keys & np.uint64(_DIVERGED) != 0
    each = np.add.reduceat(moved.astype(np.int64), starts)
    found: Counts = table(moved & np.repeat(each == 1, sizes))
    left = np.flatnonzero(moved & np.repeat(each > 1, sizes))
    if len(left):
        group = np.repeat(np.arange(len(starts)), sizes)[left]
        first = left[np.concatenate([[True], group[1:] != group[:-1]])]
        parents = np.array([-1 if parent is None else parent for parent in forked])
        np.add.at(found, (parents[cell[first] // len(KINDS)], cell[first] % len(KINDS)), 1)
    return found


def _sets(
    found: Counted,
    keys: Keys,
    starts: Numbers,
    mapped_by: Numbers,
    new_owner: npt.NDArray[np.bool_],
    members: int,
    index: bool,
) -> None:
    """The sets of members that share a frame, told apart by the sum of a random number for each."""
    marks = np.random.default_rng(1).integers(1, 1 << 63, members, np.uint64)
    owners = ((keys >> np.uint64(_MEMBER_AT)) & np.uint64(MOST_MEMBERS - 1)).astype(np.int64)
    sums = np.add.reduceat(np.where(new_owner, marks[owners], np.uint64(0)), starts)
    ordered = np.sort(sums)
    distinct = ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])]
    number = np.searchsorted(distinct, sums)
    pages = np.bincount(number, minlength=len(distinct))
    example = np.zeros(len(distinct), np.int64)
    example[number] = np.arange(len(starts))
    # Which members each set has: those of one of its frames.
    ends = np.append(starts, len(keys))
    sizes = ends[example + 1] - ends[example]
    rows = np.repeat(np.arange(len(distinct)), sizes)
    chosen = np.arange(len(rows)) + np.repeat(ends[example] - (np.cumsum(sizes) - sizes), sizes)
    sets = np.zeros((len(distinct), members), bool)
    sets[rows, owners[chosen]] = True
    found.matrix = _matrix(sets, pages)
    found.sharers = [
        Sharers(tuple(np.flatnonzero(sets[at]).tolist()), int(pages[at]))
        for at in np.argsort(-pages, kind="stable")[:MOST_SETS].tolist()
    ]
    if index:
        found.index = FrameIndex((keys[starts] >> np.uint64(_FRAME_AT)).astype(np.int64), number, sets)


def _matrix(sets: npt.NDArray[np.bool_], pages: Numbers) -> npt.NDArray[np.int64]:
    """Pages that each two members both map; some sets at a time, since there may be one for each page."""
    members = sets.shape[1]
    total = np.zeros((members, members))
    step = max(1, BLOCK // members)
    for at in range(0, len(sets), step):
        part = sets[at : at + step].astype(np.float64)
        total += part.T @ (part * pages[at : at + step, None])
    return np.rint(total).astype(np.int64)
