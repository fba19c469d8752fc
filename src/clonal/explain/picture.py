"""What is drawn: rows of cells (a process's entries for a region) and blocks of frames.

Plain data, made from an Observation of either machine. Frames have numbers in the order in which they
were first mapped, so that two machines which do the same show the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from clonal.scenario import Observation, RegionView, Shown

EACH = 8  # a region with more pages is drawn as runs of pages that are alike
UNKNOWN = 0  # the number of a frame that is not shown

KINDS = {
    Shown.NONE: "none",
    Shown.ZERO: "zero",
    Shown.FILE: "file",
    Shown.ANON: "anon",
    Shown.ZERO_OR_ANON: "anon",
}
NAMES = {"zero": "the zero page", "file": "page cache", "anon": "anonymous"}


@dataclass(frozen=True)
class Cell:
    """Entries of consecutive pages that are alike; `frame` is the first one's frame, the others follow.

    `mark`: "w" a write does not fault, "c" a write copies or reuses, "r" a write is not allowed or noticed
    first, "" not known (the kernel does not say). `alone`: no other entry maps the frame.
    """

    first: int
    count: int
    mark: str
    kind: str
    frame: int
    alone: bool
    huge: bool = False
    changed: bool = False
    run: bool = False  # of a region that is drawn as runs

    @property
    def frames(self) -> str:
        """`3`, `1–512`, `z`, `·`."""
        if self.kind == "none":
            return "·"
        if self.kind == "zero":
            return "z"
        if self.frame == UNKNOWN:
            return "f" if self.kind == "file" else "a"
        return ("H " if self.huge else "") + numbers(self.frame, self.count)


@dataclass(frozen=True)
class Row:
    """The entries of one process for one region. `lent_by`: the process whose tables these are (vfork)."""

    process: str
    region: str
    cells: tuple[Cell, ...]
    lent_by: str = ""


@dataclass(frozen=True)
class Block:
    """Frames with consecutive numbers and the same users; frame 0 is the zero page."""

    first: int
    count: int
    kind: str
    users: tuple[tuple[str, str], ...]  # process, region
    node: int | None = None
    changed: bool = False

    @property
    def name(self) -> str:
        return "z" if self.kind == "zero" else numbers(self.first, self.count)


@dataclass(frozen=True)
class Picture:
    """A machine between two steps."""

    rows: tuple[Row, ...] = ()
    blocks: tuple[Block, ...] = ()


def joined(blocks: Iterable[Block]) -> list[Block]:
    """Blocks that follow one another and differ in nothing else, as one."""
    made: list[Block] = []
    for block in blocks:
        last = made[-1] if made else None
        if last and last.first + last.count == block.first and _like(last) == _like(block):
            made[-1] = replace(last, count=last.count + block.count)
        else:
            made.append(block)
    return made


def _like(block: Block) -> tuple[object, ...]:
    return block.kind, block.users, block.node, block.changed


def numbers(first: int, count: int) -> str:
    return f"{first}" if count == 1 else f"{first}–{first + count - 1}"


@dataclass(frozen=True)
class _State:
    """The entries of a row, page by page."""

    kind: NDArray[np.uint8]
    number: NDArray[np.int64]
    mark: NDArray[np.str_]
    alone: NDArray[np.bool_]
    huge: NDArray[np.bool_]

    def breaks(self) -> NDArray[np.bool_]:
        """Where a run of pages that are alike ends."""
        steps = np.diff(self.number)
        real = (self.kind[1:] == Shown.FILE) | (self.kind[1:] >= Shown.ANON)
        known = self.number[1:] != UNKNOWN
        broken: NDArray[np.bool_] = np.where(real & known, steps != 1, steps != 0)
        for each in (self.kind, self.mark, self.alone, self.huge):
            broken |= each[1:] != each[:-1]
        return broken

    def differs(self, other: _State | None) -> NDArray[np.bool_]:
        """Pages whose entries are not what they were. That others use a frame too is no change of them."""
        if other is None or len(other.kind) != len(self.kind):
            return np.ones(len(self.kind), bool)
        changed = np.zeros(len(self.kind), bool)
        for name in ("kind", "number", "mark", "huge"):
            changed |= getattr(self, name) != getattr(other, name)
        return changed


Marks = Mapping[tuple[str, str], NDArray[np.str_]]


class Painter:
    """Makes pictures of one machine, step after step; remembers the frames' numbers and what was there."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._cached: set[int] = set()  # frames of the page cache, which keep their number when unmapped
        self._next = 1
        self._before: dict[tuple[str, str], _State] = {}
        self._blocks_before: tuple[Block, ...] = ()

    def paint(
        self,
        seen: Observation,
        marks: Marks | None = None,
        lent: Mapping[str, str] | None = None,
        nodes: Mapping[int, int] | None = None,
    ) -> Picture:
        """`marks`: of each process and region, `lent`: by whom the tables of a process are, `nodes`: where
        frames lie, by the machine's numbers."""
        self.follow(seen)
        lent = lent or {}
        states = {
            (who, name): self._state(region, (marks or {}).get((who, name)))
            for who, view in seen.processes.items()
            for name, region in view.regions.items()
        }
        rows = [
            Row(who, name, _cells(state, self._before.get((who, name))), lent.get(who, ""))
            for (who, name), state in states.items()
        ]
        rows += [
            Row(who, "", (), lent.get(who, "")) for who, view in seen.processes.items() if not view.regions
        ]
        self._before = states
        places = {
            self._numbers[frame]: node for frame, node in (nodes or {}).items() if frame in self._numbers
        }
        return Picture(tuple(rows), self._blocks(rows, places))

    def follow(self, seen: Observation) -> None:
        """Numbers for frames that are new; anonymous ones that are gone lose theirs."""
        views = [region for view in seen.processes.values() for region in view.regions.values()]
        mapped = {f for view in views for f in view.frame[(view.frame >= 0) & _real(view)].tolist()}
        self._cached.update(f for view in views for f in view.frame[view.kind == Shown.FILE].tolist())
        self._numbers = {f: n for f, n in self._numbers.items() if f in mapped or f in self._cached}
        for view in views:
            for frame in view.frame[(view.frame >= 0) & _real(view)].tolist():
                if frame not in self._numbers:
                    self._numbers[frame] = self._next
                    self._next += 1

    def _state(self, view: RegionView, mark: NDArray[np.str_] | None) -> _State:
        real = _real(view) & (view.frame >= 0)
        number = np.zeros(len(view.kind), np.int64)
        number[real] = [self._numbers[frame] for frame in view.frame[real].tolist()]
        mark = mark if mark is not None else np.full(len(view.kind), "", "U1")
        return _State(view.kind, number, mark, view.alone, view.huge)

    def _blocks(self, rows: Iterable[Row], places: Mapping[int, int]) -> tuple[Block, ...]:
        """Cuts all numbers in use where the set of users changes."""
        spans = [
            (cell, (row.process, row.region))
            for row in rows
            if not row.lent_by
            for cell in row.cells
            if cell.kind == "zero" or cell.frame != UNKNOWN
        ]
        blocks = list(_cut([(c.frame, c.frame + c.count, c.kind, u) for c, u in spans if c.frame], places))
        if zero := tuple(dict.fromkeys(user for cell, user in spans if cell.kind == "zero")):
            blocks.insert(0, Block(0, 1, "zero", zero))
        marked = tuple(replace(block, changed=not self._was_there(block)) for block in blocks)
        self._blocks_before = marked
        return marked

    def _was_there(self, block: Block) -> bool:
        """Whether all its frames had the same users before, however they were cut into blocks."""
        end = block.first + block.count
        alike = [old for old in self._blocks_before if old.users == block.users]
        shared = (min(end, old.first + old.count) - max(block.first, old.first) for old in alike)
        return sum(max(0, count) for count in shared) == block.count


def _real(view: RegionView) -> NDArray[np.bool_]:
    real: NDArray[np.bool_] = (view.kind != Shown.NONE) & (view.kind != Shown.ZERO)
    return real


def _cells(state: _State, before: _State | None) -> tuple[Cell, ...]:
    pages = len(state.kind)
    changed = state.differs(before)
    broken = state.breaks() | (changed[1:] != changed[:-1]) if pages > EACH else np.ones(pages - 1, bool)
    if state.huge.any():
        broken &= ~(state.huge[1:] & state.huge[:-1])
    starts = [0, *(np.flatnonzero(broken) + 1).tolist(), pages]
    return tuple(
        Cell(
            first,
            end - first,
            str(state.mark[first]) if state.kind[first] else "",
            KINDS[Shown(int(state.kind[first]))],
            int(state.number[first]),
            bool(state.alone[first]),
            bool(state.huge[first]),
            bool(changed[first]),
            pages > EACH,
        )
        for first, end in pairwise(starts)
    )


_Span = tuple[int, int, str, tuple[str, str]]  # numbers from, to, kind, user


def _cut(spans: list[_Span], places: Mapping[int, int]) -> Iterable[Block]:
    edges = sorted({edge for start, end, *_ in spans for edge in (start, end)})
    for start, end in pairwise(edges):
        here = [span for span in spans if span[0] <= start < span[1]]
        if here:
            users = tuple(dict.fromkeys(span[3] for span in here))
            yield Block(start, end - start, here[0][2], users, places.get(start))
