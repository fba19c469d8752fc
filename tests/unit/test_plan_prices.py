"""What each strategy is priced at: the model's counts, times the costs."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from clonal.model import PAGE
from clonal.model.strategies import STRATEGIES
from clonal.plan.costs import DEFAULT, NAMES, Costs
from clonal.plan.exact import simulate
from clonal.plan.question import Fleet
from clonal.plan.server import Server
from clonal.plan.ways import HOT, way

HEAP = 64 << 20
PAGES = HEAP // PAGE
NATIVE = replace(Server.of(HEAP, 16 << 20), python=False)
WRITTEN = round(PAGES * 0.05)
FREE = replace(DEFAULT, **{name: 0.0 for name in NAMES if name not in ("cores", "bandwidth")})


def only(**costs: float) -> Costs:
    """Nothing costs anything but these."""
    return replace(FREE, **costs)


def test_copied_pages_are_counted_page_by_page() -> None:
    found = simulate(NATIVE, Fleet(20, written=0.05))
    assert (found.clones, found.copied, found.reused) == (20, 20 * WRITTEN, 0)


def test_clones_that_write_the_same_pages_copy_them_each() -> None:
    found = simulate(NATIVE, Fleet(20, written=0.05, same=True))
    assert (found.copied, found.private) == (20 * WRITTEN, WRITTEN)


def test_what_is_written_by_reading_overlaps_with_what_is_written() -> None:
    assert Fleet(1, written=0.5, refcounts=0.5).share == 0.75


@pytest.mark.parametrize(
    ("name", "cost", "count"),
    [
        ("cow", "pte", PAGES + NATIVE.others),
        ("cow", "vma", NATIVE.vmas),
        ("cow", "file_vma", NATIVE.mapped_files),
        ("cow", "anon_vma", NATIVE.anon_vmas),
        ("cow", "table", PAGES // 512 + 1),
        ("shared_tables", "pte", 0),
        ("shared_tables", "thp", PAGES // 512 + 1),
        ("async_copy", "pte", 0),
        ("image", "pte", HOT.entries),
        ("eager", "copy_page", PAGES + NATIVE.others + NATIVE.code_pages),
        ("hardware", "pte", PAGES + NATIVE.others),
    ],
)
def test_the_call_costs_what_it_does(name: str, cost: str, count: int) -> None:
    assert way(name, NATIVE, Fleet(), only(**{cost: 1.0})).stall == count


@pytest.mark.parametrize("name", sorted(set(STRATEGIES) - {"eager", "vfork"}))
def test_a_clone_copies_what_it_writes(name: str) -> None:
    made = way(name, NATIVE, Fleet(read=0.0), DEFAULT)
    assert made.private == made.copied == WRITTEN * PAGE


def test_the_child_of_async_copy_pays_what_the_caller_of_cow_does() -> None:
    costs = only(pte=1.0, table=1.0)
    cow, later = (way(name, NATIVE, Fleet(), costs) for name in ("cow", "async_copy"))
    assert (later.stall, later.ready) == (0.0, cow.ready)


def test_shared_tables_are_copied_by_whom_writes_first_in_each() -> None:
    ranges = PAGES // 512
    made = way("shared_tables", NATIVE, Fleet(written=1.0, read=0.0), only(table=1.0))
    assert made.touch == ranges


def test_hardware_copies_without_a_fault() -> None:
    assert way("hardware", NATIVE, Fleet(read=0.0), only(copy=1.0, copy_page=3.0)).touch == 3.0 * WRITTEN


def test_the_fork_of_an_image_does_not_grow_with_the_heap() -> None:
    small, large = (replace(Server.of(heap, 0), python=False) for heap in (16 << 20, 256 << 20))
    assert way("image", small, Fleet(), DEFAULT).stall == way("image", large, Fleet(), DEFAULT).stall


def test_a_clone_of_an_image_faults_for_what_it_reads() -> None:
    """16 pages by each fault of small pages, 512 of huge ones."""
    fleet = Fleet(written=0.0, read=1.0)
    small = way("image", replace(NATIVE, huge_image=False), fleet, only(map_file=1.0))
    huge = way("image", NATIVE, fleet, only(map_file=1.0))
    assert (small.touch, huge.touch) == (PAGES / 16, PAGES / 512)


def test_a_huge_page_is_forked_by_one_entry_and_split_by_the_first_write() -> None:
    server = replace(NATIVE, thp=True)
    assert way("cow", server, Fleet(), only(thp=1.0)).stall == PAGES // 512
    assert way("cow", server, Fleet(), only(pte=1.0)).stall == NATIVE.others
    assert way("cow", server, Fleet(read=0.0), only(split_huge=1.0)).touch == PAGES // 512


def test_vfork_takes_no_memory_and_promises_none() -> None:
    made = way("vfork", NATIVE, Fleet(), DEFAULT)
    assert (made.private, made.commit, made.touch, made.stall) == (0, 0, 0.0, DEFAULT.vfork)


def test_an_interpreter_writes_some_pages_whatever_it_does() -> None:
    costs = replace(DEFAULT, python_pages=100)
    idle = Fleet(written=0.0, read=0.0)
    python = way("cow", replace(NATIVE, python=True), idle, costs)
    assert (way("cow", NATIVE, idle, costs).private, python.private) == (0, 100 * PAGE)


def test_the_end_of_a_clone_frees_what_it_has() -> None:
    fleet = Fleet(read=0.0)
    assert way("cow", NATIVE, fleet, only(exit_page=1.0)).end == WRITTEN
    assert way("cow", NATIVE, fleet, only(exit_pte=1.0)).end == PAGES + NATIVE.others - WRITTEN


def test_tables_that_were_counted_replace_those_of_a_heap_without_holes() -> None:
    scattered = replace(NATIVE, tables=1000)
    assert way("cow", scattered, Fleet(), only(table=1.0)).stall == 1000


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_no_cost_lowers_a_price(name: str) -> None:
    """Each cost alone, doubled: nothing gets cheaper, and what is priced at all depends on it."""
    fleet = Fleet(written=0.1)
    server = replace(NATIVE, thp=name == "cow")
    before = way(name, server, fleet, DEFAULT)
    for each in fields(Costs):
        if each.name in ("origin", "copy"):  # what a split costs beyond a copy falls with the copy's cost
            continue
        after = way(name, server, fleet, replace(DEFAULT, **{each.name: getattr(DEFAULT, each.name) * 2}))
        assert after.stall >= before.stall and after.touch >= before.touch and after.end >= before.end


def test_of_an_image_the_other_ways_are_what_they_would_be_without_it() -> None:
    plain = replace(NATIVE, huge_image=True)
    frozen = replace(NATIVE, heap=0, image=HEAP)
    for name in ("cow", "eager", "async_copy"):
        assert way(name, frozen, Fleet(), DEFAULT).touch == way(name, plain, Fleet(), DEFAULT).touch
    assert way("image", frozen, Fleet(), DEFAULT).stall < way("cow", frozen, Fleet(), DEFAULT).stall
