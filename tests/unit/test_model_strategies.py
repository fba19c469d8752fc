"""Ways to fork, side by side on the model: who does how much work when, and what memory it takes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from clonal.model import HUGE, PAGE, Advice, Config, Machine, Map, OutOfFrames, Process, Prot, WouldBlock
from clonal.model.strategies import STRATEGIES, AsyncCopy, Bill, SharedTables, Vfork, Work, bill
from clonal.model.strategies.published import FORK_1_GB

AT = 1 << 30
FIRST = AT // PAGE
HEAP = 2048  # pages written, four tables of entries
WRITTEN = FIRST + np.arange(0, HEAP, 20)  # 103 pages, in every table
ONE_TABLE = FIRST + np.arange(100)


def template() -> Process:
    """A heap that was written, and a file that was read."""
    process = Machine(Config(ram=64 << 20)).spawn()
    process.write(process.mmap(HEAP * PAGE, at=AT), HEAP * PAGE)
    file = process.machine.file(64)
    process.read(process.mmap(64 * PAGE, Prot.READ, Map.PRIVATE, file), 64 * PAGE)
    return process


def billed(name: str, build: Callable[[], Process] = template, **touched: np.ndarray) -> Bill:
    return bill(STRATEGIES[name](), build, **touched)


def test_each_is_known_by_its_name() -> None:
    assert list(STRATEGIES) == ["eager", "cow", "vfork", "shared_tables", "async_copy", "image", "hardware"]


@pytest.mark.parametrize(
    ("name", "caller", "before"),
    [
        ("eager", Work(vmas=2, copied_vmas=1, entries=HEAP, tables=4, copied=HEAP), Work()),
        ("cow", Work(vmas=2, copied_vmas=1, entries=HEAP, tables=4), Work()),
        ("vfork", Work(waits=1), Work()),
        ("shared_tables", Work(vmas=2, copied_vmas=1, linked=4), Work()),
        ("async_copy", Work(vmas=2, copied_vmas=1, linked=4), Work(entries=HEAP, tables=4)),
        ("image", Work(vmas=2), Work()),
        ("hardware", Work(vmas=2, copied_vmas=1, entries=HEAP, tables=4), Work()),
    ],
)
def test_what_the_caller_does_in_fork(name: str, caller: Work, before: Work) -> None:
    found = billed(name)
    assert (found.caller, found.before) == (caller, before)


@pytest.mark.parametrize(
    ("name", "child"),
    [
        ("eager", Work()),
        ("cow", Work(copied=103, faults=103)),
        ("vfork", Work()),
        ("shared_tables", Work(entries=HEAP, tables=4, copied=103, faults=103)),
        ("async_copy", Work(entries=HEAP, tables=4, copied=103, faults=103)),
        ("image", Work(copied=103, faults=103)),
        ("hardware", Work(copied=103)),
    ],
)
def test_what_a_child_pays_that_writes_here_and_there(name: str, child: Work) -> None:
    assert billed(name, child_writes=WRITTEN).child == child


def huge_template() -> Process:
    """Three huge pages, and in the table behind them ten small ones."""
    process = Machine(Config(ram=64 << 20)).spawn()
    process.mmap(4 * HUGE * PAGE, at=AT)
    process.madvise(AT, 3 * HUGE * PAGE, Advice.HUGEPAGE)
    process.touch(FIRST + np.arange(3 * HUGE + 10))
    return process


@pytest.mark.parametrize(
    ("name", "caller", "before"),
    [
        ("eager", Work(2, 2, entries=10, huge=3, tables=4, copied=3 * HUGE + 10), Work()),
        ("cow", Work(2, 2, entries=10, huge=3, tables=4), Work()),
        ("vfork", Work(waits=1), Work()),
        ("shared_tables", Work(2, 2, huge=3, tables=3, linked=1), Work()),
        ("async_copy", Work(2, 2, huge=3, tables=3, linked=1), Work(entries=10, tables=1)),
        ("image", Work(vmas=3, copied_vmas=1, tables=1), Work()),
        ("hardware", Work(2, 2, entries=10, huge=3, tables=4), Work()),
    ],
)
def test_a_huge_page_is_one_entry_and_a_table_in_reserve(name: str, caller: Work, before: Work) -> None:
    """An image of the model has small pages; what it leaves of a mapping was written to once."""
    found = billed(name, huge_template)
    assert (found.caller, found.before) == (caller, before)


@pytest.mark.parametrize(
    ("name", "child"),
    [
        ("eager", Work()),
        ("cow", Work(copied=3, faults=3, split=2)),
        ("vfork", Work()),
        ("shared_tables", Work(copied=3, faults=3, split=2)),
        ("async_copy", Work(entries=10, tables=1, copied=3, faults=3, split=2)),
        ("image", Work(copied=3, faults=3)),
        ("hardware", Work(copied=3, split=2)),
    ],
)
def test_a_write_splits_a_huge_page_that_is_shared(name: str, child: Work) -> None:
    written = FIRST + np.array([0, 1, HUGE])
    assert billed(name, huge_template, child_writes=written).child == child


@pytest.mark.parametrize(
    ("name", "parent"),
    [
        ("eager", Work()),
        ("cow", Work(copied=100, faults=100)),
        ("vfork", Work()),
        ("shared_tables", Work(entries=512, tables=1, copied=100, faults=100)),
        ("async_copy", Work(entries=512, tables=1, copied=100, faults=100)),
        ("image", Work(copied=100, faults=100)),
        ("hardware", Work(copied=100)),
    ],
)
def test_what_a_parent_pays_that_goes_on_writing(name: str, parent: Work) -> None:
    """After the image the parent too has to copy what it writes: it should be idle."""
    assert billed(name, parent_writes=ONE_TABLE).parent == parent


@pytest.mark.parametrize(
    ("name", "frames", "tables"),
    [
        ("eager", HEAP, 6),
        ("cow", 103, 6),
        ("vfork", 0, 0),
        ("shared_tables", 103, 6),
        ("async_copy", 103, 6),
        ("image", 103, 6),
        ("hardware", 103, 6),
    ],
)
def test_what_memory_a_child_takes_that_writes(name: str, frames: int, tables: int) -> None:
    found = billed(name, child_writes=WRITTEN)
    assert (found.frames, found.tables) == (frames, tables)


@pytest.mark.parametrize(
    ("name", "faults", "frames", "tables"),
    [
        ("eager", 0, HEAP, 6),
        ("cow", 0, 0, 6),
        ("vfork", 0, 0, 0),
        ("shared_tables", 0, 0, 2),
        ("async_copy", 0, 0, 6),
        ("image", HEAP // 16, 0, 6),
        ("hardware", 0, 0, 6),
    ],
)
def test_what_a_child_takes_that_only_reads(name: str, faults: int, frames: int, tables: int) -> None:
    """With an image it faults, for sixteen pages at a time; with shared tables not even those are its own."""
    found = billed(name, child_reads=FIRST + np.arange(HEAP))
    assert (found.child.faults, found.frames, found.tables) == (faults, frames, tables)


@pytest.mark.parametrize("name", set(STRATEGIES) - {"vfork"})
def test_both_have_the_same_pages_of_their_own_whatever_the_strategy(name: str) -> None:
    """Only what was written by one of the two is not shared, but for eager, which shares nothing."""
    strategy = STRATEGIES[name]()
    parent = template()
    strategy.prepare(parent)
    child = strategy.fork(parent).child
    strategy.touch(parent, ONE_TABLE[:50])
    strategy.touch(child, WRITTEN)
    mine, its = (process.pages(AT, HEAP * PAGE).frame for process in (parent, child))
    present = (mine >= 0) & (its >= 0)
    apart = set(np.flatnonzero(present & (mine != its)).tolist())
    written = set(range(50)) | set((WRITTEN - FIRST).tolist())
    if name == "eager":
        assert len(apart) == HEAP
    else:
        assert apart == {page for page in written if present[page]}
    assert written <= {*apart, *np.flatnonzero(~present).tolist()}


def test_the_last_user_of_a_shared_table_takes_it_over() -> None:
    strategy = SharedTables()
    parent = template()
    children = [strategy.fork(parent).child for _ in range(2)]
    assert strategy.saved() == 8
    work = [strategy.touch(each, ONE_TABLE[:1]).entries for each in (*children, parent)]
    assert (work, strategy.saved()) == ([512, 512, 0], 6)
    for child in children:
        child.exit()
    assert strategy.saved() == 0
    assert strategy.touch(parent, FIRST + np.arange(HEAP)).entries == 0


def test_a_shared_table_is_shared_again_by_a_later_fork() -> None:
    strategy = SharedTables()
    parent = template()
    first = strategy.fork(parent).child
    strategy.touch(parent, ONE_TABLE)
    second = strategy.fork(parent).child
    assert strategy.touch(second, ONE_TABLE[:1]).tables == 1
    assert strategy.touch(first, ONE_TABLE[:1]).tables == 0


def test_what_the_child_has_copied_already_the_caller_need_not() -> None:
    """Async-fork: a table is copied once, by whoever comes first."""
    strategy = AsyncCopy()
    parent = template()
    child = strategy.fork(parent).child
    assert strategy.settle(child, tables=1) == Work(entries=512, tables=1)
    assert strategy.touch(parent, ONE_TABLE).entries == 0
    assert strategy.touch(parent, ONE_TABLE + 512).entries == 512
    assert strategy.touch(child, ONE_TABLE, write=False).entries == 2 * 512
    assert strategy.settle(child) == Work()


def test_a_second_asynchronous_fork_copies_first_what_an_earlier_child_lacks() -> None:
    strategy = AsyncCopy()
    parent = template()
    strategy.fork(parent).child.exit()
    strategy.fork(parent)
    assert strategy.fork(parent).caller == Work(vmas=2, copied_vmas=1, entries=HEAP, tables=4, linked=4)


def test_a_vfork_caller_sleeps_until_the_child_execs() -> None:
    strategy = Vfork()
    parent = template()
    child = strategy.fork(parent).child
    with pytest.raises(WouldBlock):
        strategy.touch(parent, ONE_TABLE)
    with pytest.raises(WouldBlock):
        strategy.fork(parent)
    child.exec()
    assert strategy.touch(parent, ONE_TABLE) == Work()


def test_an_image_moves_what_was_written_and_fills_only_short_holes() -> None:
    def scattered() -> Process:
        process = Machine(Config(ram=64 << 20)).spawn()
        process.mmap(HEAP * PAGE, at=AT)
        process.touch(FIRST + np.array([0, 1, 10, 500, 501]))
        return process

    found = billed("image", scattered)
    assert found.prepare == Work(vmas=2, copied=5, zeroed=8)
    assert (found.caller.vmas, found.caller.entries) == (4, 0)


def test_an_image_takes_little_memory_beyond_the_heap_while_it_is_made() -> None:
    def many() -> Process:
        process = Machine(Config(ram=(HEAP + 600) * PAGE)).spawn()
        for number in range(4):
            area = process.mmap(HEAP // 4 * PAGE, Prot.RW | (Prot.EXEC if number % 2 else Prot.NONE))
            process.write(area, HEAP // 4 * PAGE)
        return process

    assert billed("image", many).prepare.copied == HEAP


def test_written_after_the_image_a_mapping_is_copied_at_fork_again() -> None:
    """Its present entries, all of them: the anon_vma is of the whole mapping."""
    strategy = STRATEGIES["image"]()
    parent = template()
    strategy.prepare(parent)
    strategy.touch(parent, FIRST + np.arange(HEAP), write=False)
    assert strategy.fork(parent).caller.entries == 0
    strategy.touch(parent, ONE_TABLE[:1])
    assert strategy.fork(parent).caller.entries == HEAP


def test_an_eager_fork_that_does_not_fit_leaves_no_child() -> None:
    def large() -> Process:
        process = Machine(Config(ram=150 * PAGE)).spawn()
        process.write(process.mmap(100 * PAGE, at=AT), 100 * PAGE)
        return process

    parent = large()
    with pytest.raises(OutOfFrames):
        STRATEGIES["eager"]().fork(parent)
    assert [each for each in parent.machine.processes.values() if each.exit_code is None] == [parent]
    assert parent.machine.frames.used == 100
    assert bill(STRATEGIES["cow"](), large).caller.entries == 100


def test_the_model_of_shared_tables_leaves_room_for_what_was_published() -> None:
    """65 times faster at 1 GB: if nothing but entries and links counted, to link a table would cost as much
    as to copy eight entries, of the 512 that it saves."""

    def large() -> Process:
        process = Machine(Config(ram=FORK_1_GB.bytes + (8 << 20))).spawn()
        process.write(process.mmap(FORK_1_GB.bytes, at=AT), FORK_1_GB.bytes)
        return process

    plain, shared = billed("cow", large).caller, billed("shared_tables", large).caller
    assert plain.entries // shared.linked == 512
    assert 7.5 < plain.entries / FORK_1_GB.speedup / shared.linked < 8


def test_a_fork_of_two_gigabytes_costs_an_image_as_little_as_one_of_nothing() -> None:
    def sized(pages: int) -> Callable[[], Process]:
        def build() -> Process:
            process = Machine(Config(ram=3 << 30)).spawn()
            process.write(process.mmap(pages * PAGE, at=AT), pages * PAGE)
            return process

        return build

    assert billed("image", sized(1)).caller == billed("image", sized(1 << 18)).caller == Work(vmas=1)
