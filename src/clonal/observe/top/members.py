"""The table of members, drawn line by line: only what is on the screen costs anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget

from clonal.observe.top.columns import COLUMNS, FIGURES, cells, label
from clonal.observe.top.sampler import Row

BAR = 2  # columns that a scroll bar takes
WIDEST = 80  # letters of a member; beyond that the figures would stand far from their names
LIVELY = {"growth": "members--growing", "copies": "members--copying", "major": "members--waiting"}


def label_width(width: int) -> int:
    """What the figures leave of a line."""
    return max(12, min(width - FIGURES - BAR, WIDEST))


class Heading(Widget):
    """The headings; a click sorts."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"heading--sorted"}
    column: reactive[int | None] = reactive(None)
    descending: reactive[bool] = reactive(True)

    class Clicked(Message):
        """The heading of a column; None: of the members."""

        def __init__(self, column: int | None) -> None:
            super().__init__()
            self.column = column

    def render_line(self, y: int) -> Strip:
        base, marked = self.rich_style, self.get_component_rich_style("heading--sorted")
        width = label_width(self.size.width)
        parts = [Segment("member".ljust(width), marked if self.column is None else base)]
        for number, column in enumerate(COLUMNS):
            ours = number == self.column
            text = ("▾" if self.descending else "▴") * ours + column.heading
            parts.append(Segment(text.rjust(column.width), marked if ours else base))
        return Strip(parts).adjust_cell_length(self.size.width, base)

    def on_click(self, event: events.Click) -> None:
        self.post_message(self.Clicked(self.column_at(event.x)))

    def column_at(self, x: int) -> int | None:
        """Which column lies there."""
        left = x - label_width(self.size.width)
        for number, column in enumerate(COLUMNS):
            if 0 <= left < column.width:
                return number
            left -= column.width
        return None


class MemberTable(ScrollView, can_focus=True):
    """The rows, one of them chosen: it stays so wherever sorting moves it."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"members--chosen", "members--dim", *LIVELY.values()}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "up"),
        Binding("down,j", "move(1)", "down"),
        Binding("pageup", "page(-1)", "page up"),
        Binding("pagedown", "page(1)", "page down"),
        Binding("home,g", "move(-1000000)", "first"),
        Binding("end,G", "move(1000000)", "last"),
        Binding("enter", "open", "kinds of memory"),
    ]

    class Chosen(Message):
        """Another member was chosen."""

    class Opened(Message):
        """The chosen member is to be shown closer."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.rows: Sequence[Row] = []
        self.as_tree = True
        self.chosen: int | None = None

    @property
    def at(self) -> int:
        """Where the chosen member is; 0 where it is not shown."""
        return next((at for at, row in enumerate(self.rows) if row.pid == self.chosen), 0)

    def show(self, rows: Sequence[Row], tree: bool) -> None:
        """Other rows. The chosen one that is gone gives way to its neighbour."""
        at = self.at
        self.rows, self.as_tree = rows, tree
        if rows and all(row.pid != self.chosen for row in rows):
            self.chosen = rows[min(at, len(rows) - 1)].pid
        if not rows:
            self.chosen = None
        size = Size(self.size.width, len(rows))
        if size != self.virtual_size:
            self.virtual_size = size
        self.refresh()

    def action_move(self, by: int) -> None:
        if self.rows:
            self.choose(max(0, min(len(self.rows) - 1, self.at + by)))

    def action_page(self, by: int) -> None:
        self.action_move(by * max(1, self.size.height - 1))

    def action_open(self) -> None:
        if self.rows:
            self.post_message(self.Opened())

    def choose(self, at: int) -> None:
        """The row at this place."""
        self.chosen = self.rows[at].pid
        self.scroll_to_region(Region(0, at, 1, 1), animate=False)
        self.refresh()
        self.post_message(self.Chosen())

    def on_click(self, event: events.Click) -> None:
        at = event.y + self.scroll_offset.y
        if at < len(self.rows):
            self.choose(at)
            if event.chain == 2:
                self.action_open()

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        at = y + self.scroll_offset.y
        if at >= len(self.rows):
            return Strip.blank(width, self.rich_style)
        row = self.rows[at]
        base = self.rich_style
        if row.pid == self.chosen:
            base = self.get_component_rich_style("members--chosen")
        elif row.problem:
            base = self.get_component_rich_style("members--dim")
        room = label_width(self.container_size.width)
        parts = [Segment(label(row, room, self.as_tree), base)]
        for column, text in zip(COLUMNS, cells(row), strict=True):
            parts.append(Segment(text.rjust(column.width), self._style(row, column.name, base)))
        return Strip(parts).adjust_cell_length(width, base)

    def _style(self, row: Row, name: str, base: Style) -> Style:
        """What goes on stands out, but for the chosen row, whose colours are its own."""
        if name in LIVELY and row.pid != self.chosen and (getattr(row, name) or 0) > 0:
            return self.get_component_rich_style(LIVELY[name])
        return base
