"""One member by itself: its figures, their course, and its memory by kind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from rich.cells import set_cell_size
from rich.text import Text

from clonal.observe.family import Member
from clonal.observe.top.columns import COLUMNS, cells, rate, size
from clonal.observe.top.drill import Drilled, drill, table
from clonal.observe.top.sampler import Sample, Sampler, Track
from clonal.observe.top.screens import Page
from clonal.observe.top.words import sparkline

COLUMN = 9


class Detail(Page):
    """The member `pid`. Its pages are read when it is opened, and then rarely."""

    def __init__(self, sampler: Sampler, pid: int, last: Sample, paused: bool = False) -> None:
        super().__init__()
        self.pid, self.paused = pid, paused
        self.found: Drilled | None = None
        self.problem = ""
        self.reading: asyncio.Task[None] | None = None
        self._sampler, self._last = sampler, last
        self._track = sampler.track(pid)
        self._next = 0.0

    async def on_mount(self) -> None:
        await self.tick(self._last)

    async def tick(self, last: Sample) -> None:
        """Another sample; also another look at the pages, if it is time."""
        self._last = last
        self._track = self._sampler.track(self.pid) or self._track
        if self.there and self.reading is None and time.monotonic() >= self._next:
            members = {row.pid: row.member for row in last.rows}
            member = members[self.pid]
            self.reading = asyncio.create_task(self._drill(member, members.get(member.ppid)))
        self.show()

    @property
    def there(self) -> bool:
        """Whether it has not ended."""
        return any(row.pid == self.pid for row in self._last.rows)

    async def _drill(self, member: Member, parent: Member | None) -> None:
        try:
            found = await asyncio.to_thread(drill, member, parent)
            self.problem = found.sharing.problem
            self.found = found if found.sharing.kinds else self.found
            self._next = time.monotonic() + found.pause
        finally:
            self.reading = None
        if self.is_attached:
            self.show()

    def show(self) -> None:
        if self.is_mounted and self._track is not None:
            lines = Text("\n").join(Text(line, style) for line, style in self._lines(self._track))
            lines.no_wrap = True
            self.tell(lines)

    def _lines(self, track: Track) -> Iterator[tuple[str, str]]:
        """What is shown, and in which style."""
        width = self.size.width
        member = track.seen.member
        state = ("" if self.there else " · has ended") + (" · PAUSED" if self.paused else "")
        role = "" if member.role == "process" else f", a {member.role}"
        figures = zip(COLUMNS, cells(track.row_now()), strict=True)
        yield f"process {member.pid} ({member.name}){role}, child of {member.ppid}{state}", "bold"
        yield set_cell_size(member.command, width), "dim"
        yield "", ""
        yield "".join(column.heading.rjust(column.width + 1) for column in COLUMNS), "bold"
        yield "".join(text.rjust(column.width + 1) for column, text in figures), ""
        yield "", ""
        for line in courses(track, width):
            yield line, "yellow"
        yield "", ""
        for at, line in enumerate(self._kinds()):
            yield line, "" if at or self.found is None else "bold"

    def _kinds(self) -> list[str]:
        if self.found is None:
            return [self.problem or "its pages are being read …"]
        headings, rows = table(self.found)
        lines = [
            row[0].ljust(16) + "".join(text.rjust(COLUMN) for text in row[1:]) for row in (headings, *rows)
        ]
        how = "page frames" if self.found.method == "pfn" else "the exclusive bit (root sees more)"
        lines += ["", f"by {how}, in {self.found.seconds * 1e3:.0f} ms"]
        if self.found.parent is not None:
            lines[-1] += f"; copied since the fork from {self.found.parent}"
        return lines


def courses(track: Track, width: int) -> tuple[str, str]:
    """Private memory and faults as they went, with what they are now."""
    room = max(10, width - 16)
    private = sparkline(track.private_then, room, least=None)
    faults = sparkline(track.faults_then, room)
    now = (
        size(track.memory.private if track.memory else None),
        rate(sum(track.faults) if track.faults else None),
    )
    return f"private {now[0]:>6}  {private}", f"faults  {now[1]:>6}  {faults}"
