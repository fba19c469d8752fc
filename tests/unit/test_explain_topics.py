"""What the topics say is what the model does, and how it is drawn as text."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache

import pytest

from clonal.explain import TOPICS, Moment, Story, Tell, Topic, UnknownTopic, tell, text, topic
from clonal.explain.picture import Painter
from clonal.scenario import ModelRunner, Pages, parse
from clonal.scenario.steps import FORMS


@cache
def story(name: str) -> Story:
    return tell(TOPICS[name], None, "a test")


def step(name: str, line: str) -> Moment:
    """The first step of a story that is this line alone, or else that ends with it."""
    moments = story(name).moments
    alone = [moment for moment in moments if moment.tell.lines == line]
    return (alone or [moment for moment in moments if moment.tell.lines.endswith(line)])[0]


def counted(name: str, line: str, counter: str) -> int | str:
    side = step(name, line).model
    assert side is not None
    return side.counters.get(counter, 0)


def entries(name: str, line: str, process: str) -> str:
    """The entries of a process, as `w5 c2 ·`."""
    side = step(name, line).model
    assert side is not None
    cells = [cell for row in side.picture.rows if row.process == process for cell in row.cells]
    return " ".join(cell.mark + cell.frames for cell in cells)


def test_every_topic_that_was_promised_is_there() -> None:
    promised = (
        "fork write last-sharer zero-page private-file thp exec vfork shared-memory image refcount "
        "overcommit oom storm numa"
    )
    assert list(TOPICS) == promised.split()


@pytest.mark.parametrize("name", TOPICS)
def test_every_step_names_the_function_that_does_it(name: str) -> None:
    for each in TOPICS[name].steps:
        assert re.match(r"(\w+/\w+\.c \w|none: no fault|CPython Include/)", each.where), each.where
        assert each.why.endswith(".")


@pytest.mark.parametrize("name", TOPICS)
def test_every_topic_is_told_on_the_model_alone(name: str) -> None:
    told = story(name)
    assert told.without_kernel == "a test" and not told.without_model
    assert all(moment.model is not None for moment in told.moments)
    assert json.loads(json.dumps(told.to_json()))["steps"]


def test_a_huge_page_is_one_entry_until_a_write_splits_it() -> None:
    assert entries("thp", "parent: fork child", "child") == "cH 1–512"
    assert entries("thp", "child: write heap 3", "parent") == "cH 1–512"
    assert entries("thp", "child: write heap 3", "child") == "c1–3 w513 c5–512"


def test_what_the_model_does_not_have_is_said_and_told_in_words() -> None:
    steps = (
        Tell("p: map a thp 512", "mm/mmap.c do_mmap", "Told."),
        Tell("p: madvise a 0 lacking", "", "More."),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FORMS, "madvise", replace(FORMS["madvise"], parts=(str, Pages.parse, str)))
        told = tell(Topic("new", "a title", steps, "a lesson"), None, "a test")
    assert told.without_model == "it does not have MADV_LACKING"
    assert "without the model: it does not have MADV_LACKING" in text.plain(text.heading(told, 110))
    assert all(moment.model is None for moment in told.moments)
    assert "Told." in text.plain(text.moment(told, 0, 80))


@pytest.mark.parametrize(
    ("name", "line", "counter", "count"),
    [
        ("fork", "parent: fork child", "entries copied by fork", 3),
        ("fork", "child: read heap 0-2", "minor faults", 0),
        ("write", "child: write heap 0", "copied", 1),
        ("write", "parent: write heap 1", "copied", 1),
        ("write", "parent: write heap 0-3", "reused", 3),
        ("write", "parent: write heap 0-3", "copied", 0),
        ("last-sharer", "child: write heap 0", "copied", 1),
        ("last-sharer", "parent: write heap 0", "reused", 1),
        ("zero-page", "second: write heap 0,3", "zero-filled", 1),
        ("zero-page", "second: write heap 0,3", "copied", 1),
        ("private-file", "parent: write data 0", "copied", 1),
        ("private-file", "other: write later 2", "minor faults", 1),
        ("exec", "parent: write heap 0-3", "reused", 4),
        ("vfork", "child: write heap 0", "minor faults", 0),
        ("vfork", "parent: vfork child", "private pages committed", 4),
        ("vfork", "parent: write heap 0-3", "minor faults", 0),
        ("shared-memory", "child: write pool 0", "copied", 0),
        ("image", "plain: fork child", "entries copied by fork", 512),
        ("image", "frozen: fork clone", "entries copied by fork", 0),
        ("image", "frozen: fork second", "entries copied by fork", 256),
        ("refcount", "worker: write objects 0-7", "copied", 8),
        ("refcount", "second: read objects 0-7", "minor faults", 0),
        ("overcommit", "parent: map second anon 200000", "private pages committed", 400_000),
        ("overcommit", "parent: map third anon 300000", "result", "ENOMEM"),
        ("overcommit", "parent: fork child", "private pages committed", 800_000),
        ("overcommit", "other: map one anon 1000", "result", "ENOMEM"),
        ("overcommit", "child: write first 0", "copied", 1),
        ("thp", "parent: write heap 0", "minor faults", 1),
        ("thp", "parent: fork child", "entries copied by fork", 0),
        ("thp", "parent: fork child", "huge entries copied by fork", 1),
        ("thp", "child: write heap 3", "copied", 1),
        ("thp", "parent: write heap 7", "copied", 1),
        ("thp", "parent: write heap 9", "reused", 1),
        ("oom", "writer: write more 1700-2499", "result", "writer killed"),
        ("storm", "child4: write heap 0-5", "copied", 24),
        ("storm", "touched: write heap 0-5", "copied", 6),
        ("storm", "ready: write heap 0-5", "minor faults", 0),
    ],
)
def test_the_counts_of_the_text_are_those_of_the_model(
    name: str, line: str, counter: str, count: int | str
) -> None:
    assert counted(name, line, counter) == count


def test_the_writer_has_the_copy_and_the_other_keeps_the_frame() -> None:
    assert entries("write", "child: write heap 0", "child") == "w5 c2 c3 c4"
    assert entries("write", "child: write heap 0", "parent") == "c1 c2 c3 c4"
    assert entries("write", "parent: write heap 1", "child") == "w5 c2 c3 c4"


def test_a_vforked_child_has_its_parent_s_tables() -> None:
    side = step("vfork", "child: write heap 3").model
    assert side is not None
    assert [row.lent_by for row in side.picture.rows] == ["", "parent"]
    assert all(block.users == (("parent", "heap"),) for block in side.picture.blocks)


def test_the_killer_takes_the_process_with_most_points() -> None:
    before = step("oom", "writer: write more 0-1699").model
    assert before is not None
    points = {name: count for name, count in before.counters.items() if name.startswith("points of")}
    assert max(points, key=lambda name: int(points[name])) == "points of writer"
    killed = step("oom", "writer: write more 1700-2499")
    assert killed.model is not None and "writer" not in killed.model.uses
    assert killed.notes == ("written until the kill: 433 pages by the model",)


def test_a_copy_lies_on_the_writer_s_node_and_a_reuse_moves_nothing() -> None:
    side = story("numa").moments[-1].model
    assert side is not None
    assert [block.node for block in side.picture.blocks] == [0, 0, 0, 0, 1, 1, 0, 1]


def test_where_a_process_runs_is_told_in_its_lines_as_the_model_has_it() -> None:
    for each in TOPICS["numa"].steps:
        told = dict(re.findall(r"^# (\w+) (?:runs on|moves to) node (\d)", each.lines, re.MULTILINE))
        assert {who: str(node) for who, node in each.nodes.items()} == told
        assert set(each.policies) == set(re.findall(r"^# (\w+): set_mempolicy", each.lines, re.MULTILINE))


def test_frames_keep_their_numbers_and_freed_ones_are_not_given_out_again() -> None:
    painter, runner = Painter(), ModelRunner()
    shown = []
    for seen in runner.play(parse("p: map a anon 2\np: write a 0-1\np: madvise a 0 dontneed\np: write a 0")):
        shown.append([cell.frames for cell in painter.paint(seen).rows[0].cells])
    assert shown == [["·", "·"], ["1", "2"], ["·", "2"], ["3", "2"]]


def test_pages_of_a_large_region_that_are_alike_are_drawn_as_one() -> None:
    painter, runner = Painter(), ModelRunner()
    *_, seen = runner.play(parse("p: map a anon 600\np: write a 0-99\np: fork c\nc: write a 50"))
    rows = painter.paint(seen).rows
    assert [(cell.first, cell.count, cell.frames) for cell in rows[1].cells] == [
        (0, 50, "1–50"),
        (50, 1, "101"),
        (51, 49, "52–100"),
        (100, 500, "·"),
    ]


def test_frames_stand_out_when_their_users_change_not_when_they_are_cut_otherwise() -> None:
    painter, runner = Painter(), ModelRunner()
    changed = []
    for seen in runner.play(parse("p: map a anon 20\np: write a 0-9\np: fork c\nc: write a 5\nc: exit")):
        changed.append([(block.first, block.count, block.changed) for block in painter.paint(seen).blocks])
    assert changed[2:] == [
        [(1, 10, True)],
        [(1, 5, False), (6, 1, True), (7, 4, False), (11, 1, True)],
        [(1, 10, True)],
    ]


def test_a_step_is_drawn_as_text() -> None:
    assert text.plain(text.moment(story("last-sharer"), 3, 100)) == (
        "4/6  parent: write heap 0\n"
        "     mm/memory.c do_wp_page, wp_can_reuse_anon_folio, wp_page_reuse\n"
        "\n"
        "     The frame has no other user: it is marked exclusive to the parent and made writable. A fault,\n"
        "     but no copy. A handler without this case would copy for nothing, and free the old frame.\n"
        "\n"
        "     the model\n"
        "     parent heap     │w 1*│c 2 │\n"
        "     child heap      │w 4 │c 2 │\n"
        "     grandchild heap │w 3 │c 2 │\n"
        "\n"
        "     frames  1  anonymous      parent\n"
        "             2  anonymous      parent, child, grandchild\n"
        "             3  anonymous      grandchild\n"
        "             4  anonymous      child\n"
        "\n"
        "     minor faults             1\n"
        "     reused                   1\n"
        "     private pages committed  6\n"
        "     RSS of parent            2 pages, tables 12 KiB\n"
        "     RSS of child             2 pages, tables 12 KiB\n"
        "     RSS of grandchild        2 pages, tables 12 KiB\n"
        "\n"
    )


@pytest.mark.parametrize("name", TOPICS)
def test_text_is_wrapped_to_the_width(name: str) -> None:
    told = story(name)
    for index in range(len(told.moments)):
        prose = [line for line in text.plain(text.moment(told, index, 90)).splitlines() if "│" not in line]
        assert all(len(line) <= 100 for line in prose), max(prose, key=len)


def test_an_unknown_topic_names_what_was_meant() -> None:
    with pytest.raises(UnknownTopic, match="no topic 'forks'; did you mean fork"):
        topic("forks")
