"""A family's pages as one self-contained HTML page: by address, coloured by who shares them, members side
by side. Of large processes each cell stands for a run of pages, so that the page stays below 5 MB.

Cells are numbered through all segments in order of address. A member's cells are kept as runs, in columns
(length, state, set of sharers, frame, …), compressed by zlib; page_map.js draws them.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from clonal.kernel.procfs import PAGE
from clonal.model.sets import ascending
from clonal.observe.kinds import KINDS, MemoryKind
from clonal.observe.pages import EXCLUSIVE, FILE, SWAPPED, ZERO, Numbers
from clonal.observe.reading import Reading
from clonal.observe.sharing import FamilySharing, MemberSharing, Snapshot
from clonal.observe.table import headline, short

# What a page is, as page_map.js numbers it; of a cell with several the most frequent, the first at equal
# numbers.
NONE, ALONE, PARENT, SOME, ALL, IMAGE, CACHE, OUTSIDE, ZEROES, SWAP = range(10)
STATES = {
    "alone": "alone: this process's own",
    "parent": "shared with its parent",
    "some": "shared with children or siblings only",
    "all": "shared by all members",
    "image": "page of an image",
    "file": "page of a file",
    "outside": "shared outside the family only",
    "zero": "zero page: no memory",
    "swap": "swapped out",
}
HIDDEN = {"some": "shared: with whom is not known"}  # where frames are not shown
HINT = (
    "<kbd>←</kbd><kbd>↑</kbd><kbd>↓</kbd><kbd>→</kbd> cell&ensp;<kbd>[</kbd><kbd>]</kbd> mapping&ensp;"
    "<kbd>+</kbd><kbd>−</kbd> pages per cell&ensp;<kbd>Home</kbd><kbd>End</kbd>"
)
MOST_BYTES = 4_800_000
MOST_CELLS = 4_000_000  # of all members: what the browser has to hold
NAMED = 12  # sharers of a page that are named, as page_map.js does
SIZES = {"length": 4, "state": 1, "sharers": 4, "present": 4, "alone": 4, "frame": 4}  # bytes of a number


class Segment(NamedTuple):
    """Addresses in pages, of one kind."""

    start: int
    end: int
    kind: MemoryKind
    name: str


@dataclass(frozen=True)
class Layer:
    """A member's pages: number, state, number of the set of sharers, frame."""

    number: Numbers
    state: npt.NDArray[np.uint8]
    sharers: Numbers
    frame: Numbers


def page(taken: Snapshot) -> str:
    """The whole page. `taken` must have been read with `index`."""
    family = taken.summary()
    layers = [layer(taken, at) for at in range(len(taken.readings))]
    parts = segments(taken.readings)
    index = taken.counted.index
    step = 1
    while True:
        data = cells(layers, parts, step, None if index is None else index.sets)
        if data is not None:
            made = _html(family, data | _facts(taken, family, parts, step), _there(layers))
            if len(made) < MOST_BYTES or step >= _longest(parts):
                return made
        step *= 2


def _longest(parts: Sequence[Segment]) -> int:
    """Pages of the longest segment: as a cell they leave nothing to draw together."""
    return max((part.end - part.start for part in parts), default=1)


def _there(layers: Sequence[Layer]) -> set[int]:
    """The states that there are."""
    counts = sum(np.bincount(each.state, minlength=len(STATES) + 1) for each in layers)
    return set(np.flatnonzero(counts).tolist())


def layer(taken: Snapshot, at: int) -> Layer:
    """What each page of a member is."""
    each = taken.readings[at]
    flags, frame = each.pages.flags, each.pages.frame
    index = taken.counted.index
    sharers = np.zeros(len(flags), np.int64)
    if taken.shown and index is not None and len(index.frame):
        sharers = index.set_of[np.minimum(np.searchsorted(index.frame, frame), len(index.frame) - 1)]
        state = _by_sharers(index.sets, taken.parents[at])[sharers]
        state = np.where((state == ALONE) & (flags & EXCLUSIVE == 0), OUTSIDE, state)
    else:
        state = np.where(flags & EXCLUSIVE != 0, ALONE, SOME)
    shared_memory = KINDS.index(MemoryKind.SHARED)
    state = np.where((flags & FILE != 0) & (each.kinds != shared_memory), CACHE, state)
    state = np.where((state == CACHE) & (each.kinds == KINDS.index(MemoryKind.IMAGE)), IMAGE, state)
    state = np.where(flags & ZERO != 0, ZEROES, np.where(flags & SWAPPED != 0, SWAP, state))
    return Layer(each.pages.number, state.astype(np.uint8), sharers, frame)


def _by_sharers(sets: npt.NDArray[np.bool_], parent: int | None) -> npt.NDArray[np.uint8]:
    """The state of a page by the set that shares it, for a member with this parent."""
    state = np.full(len(sets), SOME, np.uint8)
    if parent is not None:
        state[sets[:, parent]] = PARENT
    counts = sets.sum(axis=1)
    state[counts == sets.shape[1]] = ALL
    state[counts == 1] = ALONE
    return state


def segments(readings: Sequence[Reading]) -> list[Segment]:
    """Where any member has pages: the regions of all, each address once, alike neighbours together."""
    regions = set()
    for each in readings:
        counts = np.bincount(each.region_of_pages(), minlength=len(each.regions))
        used = (region for region, count in zip(each.regions, counts, strict=False) if count)
        regions |= {(region.start // PAGE, region.end // PAGE, region.kind, region.name) for region in used}
    found: list[Segment] = []
    for start, end, kind, name in sorted(regions):
        last = found[-1] if found else Segment(0, 0, kind, name)
        start = max(start, last.end)
        if start >= end:
            continue
        if found and last.end == start and (last.kind, last.name) == (kind, name):
            found[-1] = last._replace(end=end)
        else:
            found.append(Segment(start, end, kind, name))
    return found


def cells(
    layers: Sequence[Layer], parts: Sequence[Segment], step: int, sets: npt.NDArray[np.bool_] | None
) -> dict[str, Any] | None:
    """The cells of `step` pages that are not empty, and what each member has there; None if too many. Of the
    sets of sharers those that a cell names: how many members each has, and the first of them."""
    starts = np.array([part.start for part in parts], np.int64)
    sizes = np.array([-(-(part.end - part.start) // step) for part in parts], np.int64)
    first = np.cumsum(sizes) - sizes

    def placed(each: Layer) -> Numbers:
        segment = np.searchsorted(starts, each.number, "right") - 1
        return first[segment] + (each.number - starts[segment]) // step

    where = [placed(each) for each in layers]
    used = ascending(np.concatenate([ascending(each) for each in where]))
    if len(used) * len(layers) > MOST_CELLS and step < _longest(parts):
        return None
    runs = [
        _runs(each, np.searchsorted(used, at), len(used), step)
        for each, at in zip(layers, where, strict=True)
    ]
    named = ascending(np.concatenate([each["sharers"] for each in runs]))
    for each in runs:
        each["sharers"] = np.searchsorted(named, each["sharers"])
    breaks = np.flatnonzero(np.concatenate([[True], np.diff(used) != 1])) if len(used) else used
    return {
        "first": first.tolist(),
        "used": [_packed(used[breaks], 4), _packed(np.diff(np.append(breaks, len(used))), 4)],
        "members": [{name: _packed(column, SIZES[name]) for name, column in each.items()} for each in runs],
        "sets": [] if sets is None else [_told(np.flatnonzero(sets[number])) for number in named.tolist()],
    }


def _told(members: Numbers) -> list[int]:
    return [len(members), *members[: NAMED + 1].tolist()]


def _runs(each: Layer, cell: Numbers, count: int, step: int) -> dict[str, npt.NDArray[Any]]:
    """A member's cells as runs of equal ones. Frames are those of the first page that has the cell's state;
    in a run they follow each other."""
    states = len(STATES) + 1
    counts = np.bincount(cell * states + each.state, minlength=count * states).reshape(count, states)
    state = counts.argmax(axis=1).astype(np.uint8)
    chosen = np.flatnonzero(each.state == state[cell])[::-1]
    example = np.full(count, -1)
    example[cell[chosen]] = chosen
    some = example >= 0
    sharers, frame = np.zeros(count, np.int64), np.zeros(count, np.int64)
    sharers[some], frame[some] = each.sharers[example[some]], each.frame[example[some]]
    present, alone = counts.sum(axis=1), counts[:, ALONE]
    expected = np.concatenate([[0], frame[:-1] + np.where(frame[:-1] > 0, step, 0)])
    columns = (state, sharers, present, alone)
    new = frame != expected
    for column in columns:
        new[1:] |= column[1:] != column[:-1]
    new[:1] = True
    at = np.flatnonzero(new)
    return {
        "length": np.diff(np.append(at, count)),
        "state": state[at],
        "sharers": sharers[at],
        "present": present[at],
        "alone": alone[at],
        "frame": np.diff(frame[at], prepend=0),  # differences, which are smaller
    }


def _packed(values: npt.NDArray[Any], size: int) -> str:
    """Little-endian unsigned numbers of so many bytes, compressed; negative ones wrap."""
    raw = values.astype(np.int64).astype(f"<u{size}").tobytes()
    return base64.b64encode(zlib.compress(raw, 6)).decode()


def _facts(taken: Snapshot, family: FamilySharing, parts: Sequence[Segment], step: int) -> dict[str, Any]:
    return {
        "page": PAGE,
        "step": step,
        "shown": taken.shown,
        "states": list(STATES),
        "words": ["nothing in memory", *_words(taken.shown).values()],
        "pids": [each.pid for each in family.members],
        "names": list(map(_name, family.members)),
        "segments": [[part.start, part.end, str(part.kind), part.name] for part in parts],
        "mapped": [_mapped(each, parts) for each in taken.readings],
    }


def _mapped(each: Reading, parts: Sequence[Segment]) -> list[int]:
    """Which segments a member maps at least in part, with pages in memory or without."""
    starts = np.array([vma.start // PAGE for vma in each.vmas] + [1 << 52])
    ends = np.array([0] + [vma.end // PAGE for vma in each.vmas])
    last = np.searchsorted(starts, [part.end for part in parts])  # mappings that begin before its end
    return np.flatnonzero(ends[last] > [part.start for part in parts]).tolist() if parts else []


def _words(shown: bool) -> dict[str, str]:
    if shown:
        return STATES
    return {name: HIDDEN.get(name, words) for name, words in STATES.items()}


def _html(family: FamilySharing, data: dict[str, Any], there: set[int]) -> str:
    first = family.members[0]
    title = f"clonal map {first.pid}"
    embedded = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    said = headline(family)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_resource('page_map.css')}</style></head>\n<body>"
        f"<header><h1>{title} <small>{escape(first.member.name)}</small></h1>"
        f"<p>{escape(' '.join(said[:2]))}</p>"
        + "".join(f'<p class="warning">{escape(line)}</p>' for line in (*said[2:], *family.problems))
        + f"<details><summary>Figures of the members</summary>{_table(family)}</details>"
        f"{_controls(data['shown'], there)}</header>\n"
        '<main id="map" tabindex="0" role="application" aria-label="pages by address"><canvas></canvas>'
        '<div id="room"></div></main><div id="tip" role="status" aria-live="polite" hidden></div>\n'
        f'<script type="application/json" id="data">{embedded}</script>\n'
        f"<script>{_resource('page_map.js')}</script></body></html>\n"
    )


def _controls(shown: bool, there: set[int]) -> str:
    legend = "".join(
        f'<button data-state="{number}" aria-pressed="false" title="{escape(words)}: show only these">'
        f'<i class="{name}"></i>{escape(words)}</button>'
        for number, (name, words) in enumerate(_words(shown).items(), 1)
        if number in there
    )
    return (
        f'<div id="legend">{legend}</div><div id="bar">'
        '<label>go to <select id="jump"></select></label>'
        '<button id="out" title="minus">−</button><span id="scale"></span>'
        '<button id="in" title="plus">+</button>'
        f'<span class="hint">{HINT}</span></div>'
    )


COLUMNS = ("RSS", "shared", "alone", "copied", "outside", "swapped", "huge", "PSS", "USS", "tables")


def _table(family: FamilySharing) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("process", *COLUMNS))
    return f"<table><tr>{head}</tr>{''.join(map(_row, family.members))}</table>"


def _row(each: MemberSharing) -> str:
    total = each.total
    figures = (
        each.rss, total.shared, total.exclusive, total.copied, total.elsewhere, total.swapped, total.huge,
        each.pss, each.uss, each.page_tables,
    )  # fmt: skip
    cells = "".join(f"<td>{short(size if each.known else None)}</td>" for size in figures)
    return f'<tr title="{escape(each.member.command)}"><td>{each.pid} {escape(_name(each))}</td>{cells}</tr>'


def _name(each: MemberSharing) -> str:
    return each.member.name if each.member.role == "process" else each.member.role


def _resource(name: str) -> str:
    return (files("clonal.observe") / name).read_text("utf-8")
