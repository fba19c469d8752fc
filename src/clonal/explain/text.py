"""A story as lines for a terminal: spans of (text, style), so that they can be plain or coloured."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby

from clonal.explain.machines import Side
from clonal.explain.picture import NAMES, Cell, Picture, Row, joined, numbers
from clonal.explain.tell import Moment, Story

Span = tuple[str, str]
Line = list[Span]

PLAIN, DIM, BOLD, NEW, GOOD, BAD = "", "dim", "bold", "bold yellow", "green", "bold red"
INDENT = "     "
LEGEND = (
    "w 3: in frame 3, a write does not fault; c 3: a write faults, then copies or reuses; r 3: any other; "
    "z: the zero page; ·: no entry; H: one entry for 2 MiB; *: changed in this step. "
    "The kernel shows frames, not who may write."
)
HIDDEN = "a: anonymous, f: page cache; this kernel tells only root the numbers of frames (CAP_SYS_ADMIN)"
SAME = "the kernel shows the same, page by page"


def plain(lines: Sequence[Line]) -> str:
    return "".join("".join(text for text, _ in line).rstrip() + "\n" for line in lines)


def heading(story: Story, width: int) -> list[Line]:
    lines: list[Line] = [[(f"{story.topic.name}: ", BOLD), (story.topic.title, BOLD)]]
    lines += _wrapped(LEGEND, width, DIM, "")
    if story.frames_hidden:
        lines += _wrapped(HIDDEN, width, DIM, "")
    for name, reason in (("the kernel", story.without_kernel), ("the model", story.without_model)):
        if reason:
            lines += _wrapped(f"without {name}: {reason}", width, BAD, "")
    return [*lines, []]


def closing(story: Story, width: int) -> list[Line]:
    return _wrapped(story.topic.lesson, width, BOLD, "")


def moment(story: Story, index: int, width: int) -> list[Line]:
    """One step."""
    shown = story.moments[index]
    number = f"{index + 1}/{len(story.moments)}"
    lines: list[Line] = []
    for position, text in enumerate(shortened(shown.lines)):
        lines.append([(f"{number if position == 0 else '':<5}", DIM), (text, BOLD)])
    lines += _wrapped(shown.tell.where, width, DIM)
    lines += [[], *_wrapped(shown.tell.why, width, PLAIN), []]
    lines += _machines(story, shown, width)
    for note in shown.notes:
        lines += _wrapped(note, width, GOOD)
    for difference in shown.differences:
        lines += _wrapped(f"the kernel differs: {difference}", width, BAD)
    return [*lines, []]


def figure(story: Story, index: int) -> str:
    """A step of the model without words, for a document: its lines, tables, frames and counters."""
    shown = story.moments[index]
    if shown.model is None:
        return ""
    side = shown.model
    steps: list[Line] = [[(line, BOLD)] for line in shown.lines]
    frames = [[(text.removeprefix(INDENT), style) for text, style in line] for line in _frames(side.picture)]
    totals = ", ".join(f"{name} {count}" for name, count in counters(side).items())
    return plain([*steps, [], *_tables(side.picture), [], *frames, [(totals, DIM)]])


def shortened(lines: list[str]) -> list[str]:
    """Of more than two lines in a row that differ in a number of a process only the first and the last."""
    made: list[str] = []
    for _, alike in groupby(lines, lambda line: re.sub(r"(?<=[a-z])\d+", "", line)):
        same = list(alike)
        made += same if len(same) < 3 else [same[0], "…", same[-1]]
    return made


def _wrapped(text: str, width: int, style: str, indent: str = INDENT) -> list[Line]:
    return [
        [(indent + line, style)]
        for line in textwrap.wrap(text, max(width - len(indent), 20), break_on_hyphens=False)
    ]


def _machines(story: Story, shown: Moment, width: int) -> list[Line]:
    """The tables of both machines beside each other, then frames and counters."""
    side = shown.side
    if side is None:
        return []
    titles = ("the model", f"{story.kernel_name}, just now")
    second = shown.kernel if shown.model else None
    left = [[(titles[shown.model is None], DIM)], *_tables(side.picture)]
    right = [[(titles[1], DIM)], *_tables(second.picture)] if second else []
    return [
        *_beside(left, right, width),
        [],
        *_frames(side.picture),
        *_counters(side, second, titles),
        *_verdict(shown),
    ]


def _beside(left: list[Line], right: list[Line], width: int) -> Iterator[Line]:
    """Two columns; the second below the first where the terminal is too narrow."""
    size = max(map(_length, left))
    if len(INDENT) + size + 3 + max(map(_length, right), default=0) > width:
        yield from ([(INDENT, PLAIN), *line] for line in [*left, [], *right])
        return
    for index in range(max(len(left), len(right))):
        first = left[index] if index < len(left) else []
        second = right[index] if index < len(right) else []
        yield [(INDENT, PLAIN), *first, (" " * (size - _length(first) + 3), PLAIN), *second]


def _length(line: Line) -> int:
    return sum(len(text) for text, _ in line)


def _tables(picture: Picture) -> list[Line]:
    width = max((len(_cell(cell)) for row in picture.rows for cell in row.cells), default=0)
    names = max((len(_name(row)) for row in picture.rows), default=0)
    return [_row(row, names, width) for row in picture.rows]


def _counters(side: Side, second: Side | None, titles: tuple[str, str]) -> list[Line]:
    """One line each, the model's value and the kernel's, if it shows one."""
    ours, theirs = counters(side) | uses(side), counters(second) | uses(second) if second else {}
    names, values = max(map(len, ours)), max(map(len, [*ours.values(), titles[0]]))
    lines: list[Line] = (
        [[(f"{INDENT}{'':<{names}}  {titles[0]:<{values}}   {titles[1]}", DIM)]] if second else []
    )
    for name, value in ours.items():
        other = theirs.get(name, "") if second else ""
        wrong = other not in ("", value)
        lines.append([(f"{INDENT}{name:<{names}}  ", DIM), (f"{value:<{values}}   ", PLAIN)])
        lines[-1].append((other, BAD if wrong else PLAIN))
    return lines


def counters(side: Side) -> dict[str, str]:
    """The counters of a machine, in words."""
    return {name: f"{value:,}" if isinstance(value, int) else value for name, value in side.counters.items()}


def uses(side: Side) -> dict[str, str]:
    """What each process has, in words."""
    made = {}
    for who, use in side.uses.items():
        tables = f", tables {use.page_tables // 1024} KiB" if use.page_tables else ""
        made[f"RSS of {who}"] = f"{use.rss:,} page{'' if use.rss == 1 else 's'}{tables}"
    return made


def _name(row: Row) -> str:
    return f"{row.process} {row.region}".strip()


def _row(row: Row, names: int, width: int) -> Line:
    line: Line = [(f"{_name(row):<{names}} ", PLAIN)]
    if not row.cells:
        return [*line, ("nothing mapped", DIM)]
    for cell in row.cells:
        line += [("│", DIM), (f"{_cell(cell):^{width}}", NEW if cell.changed else PLAIN)]
    lent = f"  the tables of {row.lent_by}" if row.lent_by else ""
    return [*line, ("│" + lent, DIM)]


def _cell(cell: Cell) -> str:
    pages = f"{numbers(cell.first, cell.count)}: " if cell.run else ""
    return pages + f"{cell.mark} {cell.frames}".strip() + ("*" if cell.changed else "")


def _frames(picture: Picture) -> list[Line]:
    lines: list[Line] = []
    blocks = joined(picture.blocks)
    width = max((len(block.name) + block.changed for block in blocks), default=0)
    for block in blocks:
        users = ", ".join(dict.fromkeys(process for process, _ in block.users))
        node = f"node {block.node}  " if block.node is not None else ""
        text = f"{block.name + '*' * block.changed:<{width}}  {node}{NAMES[block.kind]:<13}  {users}"
        title = "frames" if not lines else ""
        span = (text, NEW if block.changed else PLAIN)
        lines.append([(f"{INDENT}{title:<8}", DIM), span])
    return [*lines, []] if lines else []


def _verdict(shown: Moment) -> list[Line]:
    if shown.model and shown.kernel and not shown.differences:
        return [[], [(f"{INDENT}{SAME}", GOOD)]]
    return []
