"""The live view, driven by keys and mouse as a user drives it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("textual")

from rich.cells import cell_len
from textual.pilot import Pilot
from textual.widgets import Input, Static

from clonal.observe.family import Member
from clonal.observe.top.app import TopApp
from clonal.observe.top.columns import COLUMNS
from clonal.observe.top.detail import Detail
from clonal.observe.top.members import Heading
from clonal.observe.top.sampler import Row, Sample, Sampler
from clonal.observe.top.screens import Help
from clonal.observe.top.strain import Strain
from clonal.observe.top.words import packed, sparkline, strain_words
from tests.integration.sharing_fixtures import TREE, running

pytestmark = pytest.mark.newest

MB = 1 << 20
STRAIN = Strain(8 << 30, 5 << 30, 0.0, 0.0, 4 << 30, 5 << 30, 0, "/services/web", 2 << 30, 1 << 30)
Steps = Callable[[TopApp, Pilot[None]], Awaitable[None]]


def row(pid: int, alone: int, name: str = "gunicorn", **figures: Any) -> Row:
    member = Member(pid, 1 if pid == 100 else 100, name, "process", f"{name} --preload app:app")
    known = {"shared": 90 * MB, "pss": 20 * MB, "growth": 0.0, "minor": 0.0, "major": 0.0, "copies": 0.0}
    figures = {**known, "private": alone * MB, "oom_score": 700 + pid % 10, "age": 0.0, **figures}
    return Row(member, 100, 0 if pid == 100 else 1, (90 + alone) * MB, **figures)


class Played(Sampler):
    """A sampler that shows what it is given."""

    def __init__(self, rows: list[Row]) -> None:
        super().__init__(os.getpid())
        self.rows, self.ended = rows, [0][:0]

    def sample(self, chosen: int | None = None) -> Sample:
        return Sample(1.0, self.rows, STRAIN, self.ended, 0, 0.01)


FOUR = [row(100, 6), row(101, 2), row(102, 58, copies=1500.0, growth=6.1e6), row(103, 30, "celery")]


def drive(sampler: Sampler, steps: Steps, size: tuple[int, int] = (80, 24)) -> None:
    """Runs the app, samples being taken only when a step asks for one."""

    async def run() -> None:
        app = TopApp(sampler, interval=3600)
        async with app.run_test(size=size) as pilot:
            await settled(app, pilot)
            await steps(app, pilot)

    asyncio.run(run())


async def settled(app: TopApp, pilot: Pilot[None]) -> None:
    """A sample, taken and drawn."""
    while app._busy:
        await pilot.pause()
    await app.tick()
    await pilot.pause()


def pids(app: TopApp) -> list[int]:
    return [each.pid for each in app.table.rows]


def text(app: TopApp, name: str) -> str:
    return str(app.screen_stack[0].query_one(f"#{name}", Static).content)


def test_keys_sort_and_the_chosen_member_stays_chosen() -> None:
    async def steps(app: TopApp, pilot: Pilot[None]) -> None:
        assert pids(app) == [100, 101, 102, 103] and app.chosen == 100
        await pilot.press("down")
        assert app.chosen == 101
        await pilot.press("3")
        assert pids(app) == [102, 103, 100, 101] and app.chosen == 101
        assert COLUMNS[app.column or 0].heading == "private"
        await pilot.press("r")
        assert pids(app) == [101, 100, 103, 102]
        await pilot.press("less_than_sign")
        assert app.column == 1
        await pilot.press("0")
        assert pids(app) == [100, 101, 102, 103] and app.column is None
        await pilot.press("end")
        assert app.chosen == 103

    drive(Played(FOUR), steps)


def test_a_click_on_a_heading_sorts_and_on_a_row_chooses() -> None:
    async def steps(app: TopApp, pilot: Pilot[None]) -> None:
        heading = app.query_one(Heading)
        column = next(x for x in range(80) if heading.column_at(x) == 2)
        await pilot.click(Heading, offset=(column, 0))
        assert pids(app) == [102, 103, 100, 101]
        await pilot.click(Heading, offset=(column, 0))
        assert pids(app) == [101, 100, 103, 102]
        await pilot.click(Heading, offset=(1, 0))
        assert pids(app) == [100, 101, 102, 103]
        await pilot.click(app.table, offset=(5, 2))
        assert app.chosen == 102

    drive(Played(FOUR), steps)


def test_the_filter_takes_letters_that_are_keys_elsewhere() -> None:
    async def steps(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("slash", *"celery")
        assert pids(app) == [103] and app.focused is app.query_one(Input)
        await pilot.press("enter")
        assert pids(app) == [103] and app.focused is app.table and "'celery'" in text(app, "title")
        await pilot.press("escape")
        assert pids(app) == [100, 101, 102, 103]
        await pilot.press("slash", *"qq")
        assert pids(app) == [] and app.chosen is None
        await pilot.press("enter", "enter", "down", "escape")
        assert pids(app) == [100, 101, 102, 103] and app.is_running

    drive(Played(FOUR), steps)


def test_a_member_that_exits_gives_way_to_its_neighbour() -> None:
    sampler = Played(list(FOUR))

    async def steps(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("down", "down")
        assert app.chosen == 102
        sampler.rows, sampler.ended = [FOUR[0], FOUR[1], FOUR[3]], [102]
        await settled(app, pilot)
        assert app.chosen == 103 and "1 ended" in text(app, "title")
        sampler.rows, sampler.ended = [], [100, 101, 103]
        await settled(app, pilot)
        assert "and all below it have ended" in text(app, "title") and app.chosen is None

    drive(sampler, steps)


def test_what_may_not_be_read_is_a_dash_and_sorts_last() -> None:
    closed = row(104, 0, private=None, shared=None, pss=None, problem="may not be inspected by user 1000")
    sampler = Played([row(100, 6), closed, row(103, 30)])

    async def steps(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("3")
        assert pids(app) == [103, 100, 104]
        assert "—" in app.table.render_line(2).text and "90.0M" in app.table.render_line(2).text
        await pilot.press("r")
        assert pids(app) == [100, 103, 104]

    drive(sampler, steps)


def test_pause_help_and_quit() -> None:
    sampler = Played(list(FOUR))

    async def steps(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("space")
        sampler.rows = FOUR[:1]
        await app.tick()
        assert len(pids(app)) == 4 and "PAUSED" in text(app, "title")
        await pilot.press("space")
        await settled(app, pilot)
        assert len(pids(app)) == 1
        await pilot.press("question_mark")
        assert isinstance(app.screen, Help)
        shown = str(app.screen.query_one("#text", Static).content)
        assert all(column.heading in shown for column in COLUMNS)
        assert shown.count("\n") < 23 and max(map(len, shown.split("\n"))) <= 80
        await pilot.press("q")
        assert not isinstance(app.screen, Help) and app.is_running
        await pilot.press("q")
        assert not app.is_running

    drive(sampler, steps)


def test_all_fits_a_terminal_of_80_by_24_and_a_wider_one_shows_commands() -> None:
    async def steps(app: TopApp, pilot: Pilot[None]) -> None:
        assert "--preload" in app.table.render_line(1).text
        await pilot.resize_terminal(80, 24)
        await pilot.pause()
        for name in ("title", "strain", "totals", "sparks", "keys"):
            widget = app.query_one(f"#{name}")
            assert widget.region.bottom <= 24 and widget.region.width == 80
            assert all(len(line) <= 80 for line in text(app, name).split("\n"))
        lines = [app.table.render_line(y).text for y in range(3)]
        assert all(len(line) <= 80 for line in lines) and lines[2].split()[-1] == "702"
        assert lines[2].split()[1:6] == ["gunicorn", "148M", "90.0M", "58.0M", "+5.82M"]
        assert "enforced" in text(app, "strain") and "cgroup /services/web" in text(app, "strain")
        assert app.table.size.height >= 14

    drive(Played(FOUR), steps, size=(160, 50))


def test_letters_of_two_columns_leave_the_figures_in_theirs() -> None:
    async def steps(app: TopApp, pilot: Pilot[None]) -> None:
        plain, wide = (app.table.render_line(y).text for y in (0, 1))
        assert cell_len(plain) == cell_len(wide) == 80 and "日本" in wide and "…" in wide
        assert cell_len(wide.partition("148M")[0]) == cell_len(plain.partition("96.0M")[0]) + 1

    drive(Played([row(100, 6), row(101, 58, "日本語の名前ですよ")]), steps)


def test_two_hundred_members_scroll() -> None:
    async def steps(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("end")
        await pilot.pause()
        bottom = app.table.size.height - 1
        assert app.chosen == 299 and "299" in app.table.render_line(bottom).text
        await pilot.press("pageup", "home")
        await pilot.pause()
        assert app.chosen == 100 and app.table.scroll_offset.y == 0

    drive(Played([row(100 + number, number) for number in range(200)]), steps)


def test_a_member_is_drilled_into_by_kind_of_memory(tmp_path: Any) -> None:
    async def steps(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("down", "enter")
        screen = app.screen
        assert isinstance(screen, Detail) and screen.pid == facts["children"][0]
        if screen.reading is not None:
            await screen.reading
        await pilot.pause()
        shown = str(screen.query_one("#text", Static).content)
        assert "large buffers" in shown and f"child of {facts['pid']}" in shown
        assert f"copied since the fork from {facts['pid']}" in shown
        assert screen.found is not None and screen.found.pause >= 5
        assert all(len(line) <= 80 for line in shown.split("\n"))
        await app.tick()
        assert screen.reading is None  # not so soon again
        for paused in (True, False):
            await pilot.press("space")
            assert ("PAUSED" in str(screen.query_one("#text", Static).content)) == paused
        await pilot.press("escape")
        assert not isinstance(app.screen, Detail)

    with running(TREE, str(tmp_path / "pid")) as facts:
        drive(Sampler(facts["pid"]), steps)


def test_a_drilled_member_that_ends_keeps_what_it_had() -> None:
    sampler = Played([row(100, 6), row(101, 2)])

    async def steps(app: TopApp, pilot: Pilot[None]) -> None:
        sampler.track = Sampler(os.getpid()).track  # type: ignore[method-assign]
        await pilot.press("enter")
        assert isinstance(app.screen, Detail)
        sampler.rows = []
        await settled(app, pilot)
        assert not app.screen.there

    drive(sampler, steps)


@pytest.mark.parametrize(
    ("values", "bars"),
    [([], ""), ([0, 0], "▁▁"), ([0, 7], "▁█"), ([1, 2, 3, 4, 5, 6, 7, 0], "▂▃▄▅▆▇█▁"), ([5] * 99, "█" * 20)],
)
def test_a_sparkline_goes_from_zero_to_its_largest(values: list[float], bars: str) -> None:
    assert sparkline(values, 20) == bars


def test_the_strain_is_packed_into_lines_that_fit() -> None:
    lines = packed(strain_words(STRAIN), 80)
    assert len(lines) <= 3 and all(len(line) <= 80 for line in lines)
    assert "commit 1.00G above 4.00G" in " ".join(lines)
