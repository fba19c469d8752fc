"""A picture as SVG: the processes' page tables on the left, frames on the right, an arrow for each entry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from clonal.explain.machines import Side
from clonal.explain.picture import Block, Cell, Row, numbers

WIDTH, TOP, LINE, GAP = 488, 26, 20, 12
TABLE, TABLE_WIDTH = 2, 178  # where the tables begin, and their width
FRAME, FRAME_WIDTH = 288, 198
KINDS = {"zero": "zero page", "file": "page cache", "anon": "anonymous"}


@dataclass(frozen=True)
class _Placed:
    """A line of a table and where it is."""

    y: float
    row: Row
    cell: Cell


class Drawing:
    """Places everything once, then draws it."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.titles: list[tuple[float, str, str]] = []
        self.lines: list[_Placed] = []
        self.bottom = self._place_tables()
        self.frames = {block.first: (self._frame_y(i), block) for i, block in enumerate(side.picture.blocks)}
        self.height = max(self.bottom, self._frame_y(len(self.frames))) + 4

    def _place_tables(self) -> float:
        y: float = TOP
        process = ""
        for row in self.side.picture.rows:
            if row.process != process:
                y += GAP if process else 0
                self.titles.append((y, row.process, self._use(row)))
                y += LINE + 2
                process = row.process
            for cell in row.cells:
                self.lines.append(_Placed(y, row, cell))
                y += LINE
            y += 4
        return y

    def _use(self, row: Row) -> str:
        if row.lent_by:
            return f"runs in {row.lent_by}'s address space"
        use = self.side.uses[row.process]
        tables = f", tables {use.page_tables // 1024} KiB" if use.page_tables else ""
        return f"RSS {use.rss:,}{tables}" if row.cells else "nothing mapped"

    @staticmethod
    def _frame_y(index: int) -> float:
        return TOP + LINE + 2 + index * (LINE + 4)

    def svg(self, label: str) -> str:
        parts = "".join([*self._heads(), *self._arrows(), *self._tables(), *self._frames()])
        return (
            f'<svg viewBox="0 0 {WIDTH} {self.height:.0f}" role="img" aria-label="{escape(label)}">'
            f"{parts}</svg>"
        )

    def _heads(self) -> Iterator[str]:
        yield _text(TABLE, 14, "page tables", "head")
        yield _text(FRAME, 14, "frames", "head")

    def _tables(self) -> Iterator[str]:
        for y, process, use in self.titles:
            name = f'<tspan class="process">{escape(process)}</tspan>'
            name += f'<tspan class="small" dx="8">{escape(use)}</tspan>'
            yield f'<text x="{TABLE}" y="{y + 14}">{name}</text>'
        for line in sorted(self.lines, key=lambda line: line.cell.changed):  # whose frame is over the others'
            yield self._entry(line)

    def _entry(self, line: _Placed) -> str:
        cell, y = line.cell, line.y
        css = f"entry {cell.kind}{' changed' if cell.changed else ''}"
        name = f"{line.row.region} {numbers(cell.first, cell.count)}"
        mark = "·" if cell.kind == "none" else ("H" if cell.huge else "") + cell.mark
        middle = TABLE + TABLE_WIDTH - 30
        return (
            f'<g class="{css}"><rect x="{TABLE}" y="{y}" width="{TABLE_WIDTH}" height="{LINE}"/>'
            f'<line x1="{middle}" x2="{middle}" y1="{y}" y2="{y + LINE}"/>'
            f"{_text(TABLE + 6, y + 14, name)}"
            f"{_text(middle + 15, y + 14, mark, f'mark {cell.mark}')}</g>"
        )

    def _arrows(self) -> Iterator[str]:
        for line in sorted(self.lines, key=lambda line: line.cell.changed):
            for first, block in self._targets(line.cell):
                y, end = line.y + LINE / 2, self.frames[first][0] + LINE / 2
                start = TABLE + TABLE_WIDTH
                css = f"arrow {line.cell.mark or 'k'}{' changed' if line.cell.changed else ''}"
                css += " lent" if line.row.lent_by else ""
                middle = (start + FRAME) / 2
                title = f"{line.row.process} maps {block.name}"
                yield (
                    f'<path class="{css}" d="M{start} {y:.0f} C{middle:.0f} {y:.0f} {middle:.0f} {end:.0f} '
                    f'{FRAME - 5} {end:.0f}"><title>{escape(title)}</title></path>'
                    f'<path class="tip {css}" d="M{FRAME - 7} {end - 4:.0f} L{FRAME} {end:.0f} '
                    f'L{FRAME - 7} {end + 4:.0f} z"/>'
                )

    def _targets(self, cell: Cell) -> Iterator[tuple[int, Block]]:
        """The blocks of frames that an entry, or a run of them, maps."""
        for first, (_, block) in self.frames.items():
            zero = cell.kind == "zero" and block.kind == "zero"
            inside = cell.kind not in ("zero", "none") and cell.frame <= first < cell.frame + cell.count
            if zero or (inside and cell.frame):
                yield first, block

    def _frames(self) -> Iterator[str]:
        for y, block in self.frames.values():
            users = len(block.users)
            what = KINDS[block.kind] if block.node is None else f"node {block.node}"
            css = f"frame {block.kind}{' changed' if block.changed else ''}{' far' if block.node else ''}"
            yield (
                f'<g class="{css}"><rect x="{FRAME}" y="{y}" width="{FRAME_WIDTH}" height="{LINE}" rx="4"/>'
                f"{_text(FRAME + 8, y + 14, block.name, 'number')}"
                f"{_text(FRAME + FRAME_WIDTH - 34, y + 14, what, 'small end')}"
                f"{_text(FRAME + FRAME_WIDTH - 8, y + 14, f'×{users}', 'count')}"
                f"<title>{escape(', '.join(f'{who} {name}' for who, name in block.users))}</title></g>"
            )


def _text(x: float, y: float, text: str, css: str = "") -> str:
    kind = f' class="{css.strip()}"' if css.strip() else ""
    return f'<text x="{x}" y="{y}"{kind}>{escape(text)}</text>'


def svg(side: Side, label: str) -> str:
    """The picture of one machine after a step."""
    return Drawing(side).svg(label)
