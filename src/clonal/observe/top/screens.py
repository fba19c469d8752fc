"""What every further screen has: a text that fills it, and the keys that lead back. Help is no more."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Static

from clonal.observe.top.columns import COLUMNS


class Page(Screen[None]):
    """A text to read."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,left,enter,question_mark,h", "app.pop_screen", "back"),
        Binding("space,p", "app.pause", "pause"),
    ]

    def compose(self) -> ComposeResult:
        with VerticalScroll():
            yield Static(id="text")
        yield Static("esc or q: back  up, down: scroll  space: pause", id="back")

    def tell(self, text: Text) -> None:
        """Shows it instead of what was there."""
        self.query_one("#text", Static).update(text)


class Help(Page):
    """Keys and columns."""

    def on_mount(self) -> None:
        self.tell(Text("\n".join(help_lines()), no_wrap=True))


def help_lines() -> list[str]:
    """At most 22 lines of 80 letters."""
    keys = [
        ("up down pgup pgdn home end", "choose a member (or click)"),
        ("enter", "its memory by kind (or a double click)"),
        ("1 to 9, < >, 0", "sort by a column, its neighbour; tree (or click)"),
        ("r", "reverse"),
        ("/  esc", "only members with these words; all of them"),
        ("space  q", "pause; quit"),
    ]
    columns = [
        f"{number} {column.heading:<8}{column.meaning}" for number, column in enumerate(COLUMNS, start=1)
    ]
    return [
        *(f"{key:<28}{what}" for key, what in keys),
        "",
        *columns,
        "",
        "— is what is not known, or not yet: a rate takes two samples. Memory is read",
        "of as many members at a time as 1.5 % of a core allows, faults of all.",
        "PSI: of the last 10 s, the part in which some task, or all, waited for memory.",
    ]
