"""`clonal top` on a terminal: 80 columns will do, and no mouse is needed."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterable
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input, Static

from clonal.observe.top.columns import COLUMNS, matches, ordered, totals
from clonal.observe.top.detail import Detail, courses
from clonal.observe.top.members import Heading, MemberTable, label_width
from clonal.observe.top.sampler import Sample, Sampler
from clonal.observe.top.screens import Help
from clonal.observe.top.words import packed, strain_words, who

KEYS = "q quit  ? help  / filter  enter kinds  < > sort  r reverse  space pause"


class Table(MemberTable):
    """The members, with the keys of the first screen: in the filter's line the same keys are letters."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "app.quit", "quit"),
        Binding("slash", "app.filter", "filter"),
        Binding("escape", "app.all", "all members"),
        Binding("less_than_sign,comma,left", "app.sort_by(-1)", "sort by the column to the left"),
        Binding("greater_than_sign,full_stop,right", "app.sort_by(1)", "sort by the column to the right"),
        Binding("r", "app.reverse", "reverse"),
        Binding("space,p", "app.pause", "pause"),
        Binding("question_mark,h", "app.help", "help"),
        Binding("0", "app.sort(-1)", "tree"),
        *(Binding(str(at + 1), f"app.sort({at})", each.heading) for at, each in enumerate(COLUMNS)),
    ]


class TopApp(App[None]):
    """The first screen. A sample every `interval` seconds, taken in a thread."""

    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+c", "quit", "quit", priority=True)]
    CSS = """
    #title { height: 1; text-style: bold; }
    #strain { height: auto; max-height: 3; color: $text-muted; }
    Heading { height: 1; background: $panel; text-style: bold; }
    .heading--sorted { color: $text-accent; background: $panel; text-style: bold; }
    #totals { height: 1; color: $text-primary; }
    Table { height: 1fr; overflow-x: hidden; }
    .members--chosen { background: $primary; color: $text; text-style: bold; }
    .members--dim { color: $text-disabled; }
    .members--growing { color: $text-warning; }
    .members--copying { color: $text-error; }
    .members--waiting { color: $text-secondary; }
    #sparks { height: 2; color: $text-accent; }
    #keys, #back { height: 1; background: $panel; color: $text-muted; }
    VerticalScroll { height: 1fr; }
    Input { display: none; height: 1; border: none; padding: 0; }
    Input:focus { border: none; }
    """

    def __init__(self, sampler: Sampler, interval: float = 1.0) -> None:
        super().__init__()
        self.sampler, self.interval = sampler, interval
        self.last: Sample | None = None
        self.paused = False
        self.column: int | None = None
        self.descending = True
        self.words = ""
        self._busy = False
        self._texts: dict[str, str] = {}

    def compose(self) -> ComposeResult:
        yield Static(id="title")
        yield Static(id="strain")
        yield Heading()
        yield Static(id="totals")
        yield Table()
        yield Static(id="sparks")
        yield Input(placeholder="words of a command line, a pid, clone …", compact=True)
        yield Static(KEYS, id="keys")

    def on_mount(self) -> None:
        ended = 128 + signal.SIGTERM
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: self.exit(return_code=ended))
        self.table.focus()
        self.set_interval(self.interval, self.tick)
        self.call_later(self.tick)

    @property
    def table(self) -> Table:
        return self.screen_stack[0].query_one(Table)

    @property
    def chosen(self) -> int | None:
        """The pid of the chosen member."""
        return self.table.chosen

    async def tick(self) -> None:
        """A sample, shown; none while paused, or while one is being taken."""
        if self.paused or self._busy:
            return
        self._busy = True
        try:
            self.last = await asyncio.to_thread(self.sampler.sample, self.chosen)
        finally:
            self._busy = False
        self.show()
        for screen in self.screen_stack:
            if isinstance(screen, Detail):
                await screen.tick(self.last)

    def show(self) -> None:
        """All that the last sample says."""
        if self.last is None:
            return
        rows = [row for row in self.last.rows if matches(row, self.words)] if self.words else self.last.rows
        self.table.show(ordered(rows, self.column, self.descending), self.column is None)
        self._static("title", [self._title(self.last)])
        self._static("strain", packed(strain_words(self.last.strain), self.size.width))
        room = label_width(self.size.width)
        figures = "".join(
            text.rjust(column.width) for column, text in zip(COLUMNS, totals(self.last), strict=True)
        )
        self._static("totals", ["all".ljust(room) + figures])
        self._sparks()

    def _static(self, name: str, lines: Iterable[str]) -> None:
        """New text; drawn only if it is, and laid out only where it has more or fewer lines."""
        text = "\n".join(lines)
        if self._texts.get(name) == text:
            return
        self._texts[name] = text
        widget = self.screen_stack[0].query_one(f"#{name}", Static)
        widget.update(Text(text, no_wrap=True, end=""), layout=text.count("\n") + 1 != widget.size.height)

    def _title(self, last: Sample) -> str:
        pieces = [who(last, self.sampler.watch.pid)]
        if self.words:
            pieces.append(f"with {self.words!r}: {len(self.table.rows)}")
        if last.ended:
            pieces.append(f"{len(last.ended)} ended")
        if last.hidden and self.sampler.watch.pid is None:
            pieces.append(f"{last.hidden} of others hidden")
        if self.paused:
            pieces.append("PAUSED")
        return "clonal top: " + " · ".join(pieces)

    def _sparks(self) -> None:
        track = None if self.chosen is None else self.sampler.track(self.chosen)
        if track is None:
            self._static("sparks", ["", ""])
            return
        private, faults = courses(track, self.size.width - 8)
        self._static("sparks", [f"{self.chosen!s:<8}{private}", f"{'':<8}{faults}"])

    def on_resize(self) -> None:
        self.call_after_refresh(self.show)

    def on_member_table_chosen(self) -> None:
        self._sparks()

    def on_member_table_opened(self) -> None:
        if self.chosen is not None and self.last is not None:
            self.push_screen(Detail(self.sampler, self.chosen, self.last, self.paused))

    def on_heading_clicked(self, event: Heading.Clicked) -> None:
        if event.column == self.column:
            self.action_reverse()
        else:
            self._sort(event.column)

    def action_sort(self, column: int) -> None:
        """The column's number; -1: the members as a tree."""
        self._sort(None if column < 0 else column)

    def action_sort_by(self, step: int) -> None:
        """The next column, the members being one of them."""
        now = -1 if self.column is None else self.column
        self.action_sort((now + 1 + step) % (len(COLUMNS) + 1) - 1)

    def action_reverse(self) -> None:
        self._sort(self.column, not self.descending)

    def _sort(self, column: int | None, descending: bool = True) -> None:
        self.column, self.descending = column, descending
        heading = self.query_one(Heading)
        heading.column, heading.descending = column, descending
        self.show()
        self.table.action_move(0)

    def action_pause(self) -> None:
        self.paused = not self.paused
        self.show()
        for screen in self.screen_stack:
            if isinstance(screen, Detail):
                screen.paused = self.paused
                screen.show()

    def action_help(self) -> None:
        self.push_screen(Help())

    def action_filter(self) -> None:
        field = self.query_one(Input)
        field.display = True
        field.value = self.words
        field.focus()

    def action_all(self) -> None:
        self._filter("")

    def on_input_changed(self, event: Input.Changed) -> None:
        self._filter(event.value)

    def on_input_submitted(self) -> None:
        self.query_one(Input).display = False
        self.table.focus()

    def key_escape(self) -> None:
        """In the filter's line: all members again."""
        field = self.query_one(Input)
        if field.display:
            field.value = ""
            self._filter("")
            self.on_input_submitted()

    def _filter(self, words: str) -> None:
        self.words = words.strip()
        self.show()
