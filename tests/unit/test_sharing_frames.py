"""Counting frames on made-up families: every page of which is known."""

from __future__ import annotations

import numpy as np
import pytest

from clonal.observe import frames
from clonal.observe.family import Member
from clonal.observe.kinds import KINDS, MemoryKind, Region
from clonal.observe.pages import EXCLUSIVE, FILE, SWAPPED, ZERO, Pages
from clonal.observe.reading import Reading

BUFFERS = KINDS.index(MemoryKind.BUFFERS)


def made(pid: int, table: dict[int, tuple[int, int]], ppid: int = 0, filed: bool = False) -> Reading:
    """A member with frame and flags by page number."""
    numbers = sorted(table)
    pages = Pages(
        np.array(numbers, np.int64),
        np.array([table[number][0] for number in numbers], np.int64),
        np.array([table[number][1] for number in numbers], np.uint8),
    )
    found = Reading(Member(pid, ppid, "x"), pages=pages)
    found.regions = [Region(0, 1000 << 12, MemoryKind.BUFFERS, "", 0, filed=filed)]
    found.place()
    return found


def counted(*readings: Reading, forked: list[int | None]) -> frames.Counted:
    return frames.count(readings, forked, shown=True, index=True)


def test_a_page_is_alone_shared_or_elsewhere() -> None:
    parent = made(1, {1: (11, 0), 2: (12, 0), 3: (13, EXCLUSIVE), 4: (14, FILE)})
    child = made(2, {1: (11, 0), 2: (22, EXCLUSIVE), 4: (14, FILE), 5: (15, FILE)}, ppid=1)
    found = counted(parent, child, forked=[None, 0])
    assert found.elsewhere is not None and found.matrix is not None and found.distinct is not None
    assert found.present[:, BUFFERS].tolist() == [4, 4]
    assert found.shared[:, BUFFERS].tolist() == [2, 2]
    assert found.exclusive[:, BUFFERS].tolist() == [1, 1]
    assert found.elsewhere[:, BUFFERS].tolist() == [1, 1]  # 12 and 15: nobody's alone, nobody else's here
    assert found.copied[:, BUFFERS].tolist() == [0, 1]
    assert found.matrix.tolist() == [[4, 2], [2, 4]]
    assert found.distinct[BUFFERS] == 6


def test_a_frame_that_is_mapped_twice_by_one_member_is_its_alone_and_counts_once() -> None:
    found = counted(made(1, {1: (11, FILE), 2: (11, FILE)}), forked=[None])
    assert found.exclusive[0, BUFFERS] == found.present[0, BUFFERS] == 2
    assert found.distinct is not None and found.distinct[BUFFERS] == 1
    assert found.sharers == [frames.Sharers((0,), 1)]


def test_the_old_frame_that_children_still_share_is_the_parent_s_copy() -> None:
    parent = made(1, {1: (99, EXCLUSIVE)})
    children = [made(pid, {1: (11, 0)}, ppid=1) for pid in (2, 3)]
    found = counted(parent, *children, forked=[None, 0, 0])
    assert found.copied[:, BUFFERS].tolist() == [1, 0, 0]


def test_a_copy_that_a_grandchild_shares_stays_its_parent_s() -> None:
    family = (
        made(1, {1: (11, EXCLUSIVE)}),
        made(2, {1: (22, 0)}, ppid=1),
        made(3, {1: (22, 0)}, ppid=2),
    )
    assert counted(*family, forked=[None, 0, 1]).copied[:, BUFFERS].tolist() == [0, 1, 0]


def test_an_anonymous_page_of_a_file_is_a_copy_also_where_the_parent_has_none() -> None:
    parent = made(1, {7: (70, FILE)}, filed=True)
    child = made(2, {1: (11, EXCLUSIVE), 2: (12, FILE)}, ppid=1, filed=True)
    assert counted(parent, child, forked=[None, 0]).copied[:, BUFFERS].tolist() == [0, 1]


def test_of_a_parent_that_could_not_be_read_nothing_is_known_to_be_copied() -> None:
    child = made(2, {1: (11, EXCLUSIVE)}, ppid=1, filed=True)
    assert counted(made(1, {}), child, forked=[None, 0]).copied.sum() == 0


def test_zeroes_and_swapped_pages_are_not_present() -> None:
    found = counted(made(1, {1: (5, ZERO), 2: (0, SWAPPED), 3: (13, EXCLUSIVE)}), forked=[None])
    assert (found.present.sum(), found.zero.sum(), found.swapped.sum()) == (1, 1, 1)


@pytest.mark.parametrize("block", [frames.BLOCK, 7])
def test_every_set_of_sharers_is_told(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "BLOCK", block)
    rng = np.random.default_rng(3)
    truth: dict[tuple[int, ...], int] = {}
    tables: list[dict[int, tuple[int, int]]] = [{} for _ in range(6)]
    for page in range(1, 500):
        who = tuple(np.flatnonzero(rng.random(6) < 0.4).tolist())
        if who:
            truth[who] = truth.get(who, 0) + 1
        for member in who:
            tables[member][page] = (1000 + page, 0)
    readings = [made(pid + 1, table) for pid, table in enumerate(tables)]
    found = counted(*readings, forked=[None] * 6)
    assert found.sharers is not None and found.matrix is not None
    assert {each.members: each.pages for each in found.sharers} == truth
    for a in range(6):
        for b in range(6):
            assert found.matrix[a, b] == sum(n for who, n in truth.items() if a in who and b in who)


def test_in_a_part_of_a_family_a_page_that_others_map_too_is_nobody_s_copy() -> None:
    parent = made(1, {1: (11, EXCLUSIVE), 2: (12, EXCLUSIVE)})
    child = made(2, {1: (91, 0), 2: (22, EXCLUSIVE)}, ppid=1)
    for part, copied in ((True, 1), (False, 2)):
        for shown in (True, False):
            found = frames.count([parent, child], [None, 0], shown, part=part)
            assert found.copied[1, BUFFERS] == copied


def test_a_family_without_pages_has_figures_of_nothing() -> None:
    found = counted(made(1, {}), forked=[None])
    assert found.present.sum() == 0 and found.sharers == []
