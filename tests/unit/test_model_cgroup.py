"""Memory cgroups of the model: who is charged, when a group is full, and whom the OOM killer takes for it."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from clonal.model import PAGE, BadMachine, Config, Group, GroupFull, Machine, Map, Process, Prot
from clonal.model.pressure import touch

HEAP = 1 << 30
TABLES = 3  # of a heap within 2 MiB


@pytest.fixture
def machine() -> Machine:
    return Machine(Config(ram=1 << 30))


def within(group: Group, machine: Machine, pages: int = 0) -> Process:
    """A process in the group that has written so many pages."""
    process = machine.spawn()
    process.group = group
    process.mmap(1 << 28, at=HEAP)
    if pages:
        process.write(HEAP, pages * PAGE)
    return process


def test_copies_are_charged_to_the_writer_and_fork_charges_no_page(machine: Machine) -> None:
    first, second = machine.group("template"), machine.group("clone")
    template = within(first, machine, 100)
    clone = template.fork()
    clone.group = second
    assert (first.charged, second.charged) == (100, 0)
    clone.write(HEAP, 10 * PAGE)
    assert (first.charged, second.charged) == (100, 10)
    assert machine.usage(second) == 10 + TABLES


def test_a_page_of_a_file_is_charged_to_its_first_reader_and_stays_in_the_cache(machine: Machine) -> None:
    first, second = machine.group("first"), machine.group("second")
    file = machine.file(16, cached=False)
    for group in (first, second):
        process = machine.spawn()
        process.group = group
        process.read(process.mmap(16 * PAGE, Prot.READ, Map.PRIVATE, file), 16 * PAGE)
        process.exit()
    assert (first.charged, second.charged) == (16, 0)


def test_charges_stay_where_they_were_made_and_end_when_the_frame_is_free(machine: Machine) -> None:
    old, new = machine.group("old"), machine.group("new")
    template = within(old, machine, 8)
    child = template.fork()
    template.group = new
    template.exit()
    assert (old.charged, new.charged) == (8, 0)
    child.exit()
    assert old.charged == 0


def test_a_group_is_charged_for_all_below_it_and_a_limit_above_holds_below(machine: Machine) -> None:
    above = machine.group("above", limit=50)
    below = machine.group("below", parent=above)
    process = within(below, machine, 40)
    assert (above.charged, below.charged) == (40, 40)
    with pytest.raises(GroupFull) as caught:
        process.write(HEAP, 60 * PAGE)
    assert (caught.value.group, caught.value.limit, caught.value.pages) == ("above", 50, 20)
    assert pickle.loads(pickle.dumps(caught.value)).charged == 40 + TABLES
    assert (process.rss.anon, above.refused, below.refused) == (40, 1, 0)


def test_a_limit_below_zero_is_refused(machine: Machine) -> None:
    with pytest.raises(BadMachine):
        machine.group("group", limit=-1)


def test_the_last_page_of_a_limit_is_given_and_then_the_largest_is_killed(machine: Machine) -> None:
    """Page tables count too: three for each of the two."""
    group = machine.group("group", limit=106)
    small, large = within(group, machine, 30), within(group, machine, 60)
    pressed = touch(small, HEAP // PAGE + np.arange(40))
    assert (pressed.touched, pressed.killed, machine.usage(group)) == (40, (), 106)
    pressed = touch(small, HEAP // PAGE + np.arange(41))
    assert (pressed.killed, group.kills) == ((large,), 1)
    assert (small.rss.anon, machine.usage(group)) == (41, 41 + TABLES)


def test_who_is_outside_is_not_killed_for_a_group(machine: Machine) -> None:
    group = machine.group("group", limit=63)
    bystander = within(machine.group("other"), machine, 10_000)
    inside = within(group, machine)
    pressed = touch(inside, HEAP // PAGE + np.arange(100))
    assert (pressed.touched, pressed.killed, pressed.faults.minor) == (60, (inside,), 60)
    assert (group.charged, bystander.exit_code) == (0, None)


def test_killing_clones_that_only_share_frees_little_so_more_are_killed(machine: Machine) -> None:
    """Each has the points of the template though it holds nothing of its own; of equals the youngest goes."""
    group = machine.group("group", limit=200)
    template = within(group, machine, 100)
    clones = [template.fork() for _ in range(3)]
    worker = within(group, machine)
    pressed = touch(worker, HEAP // PAGE + np.arange(99))
    assert pressed.killed == (*reversed(clones), template)


def test_an_adjustment_is_of_the_limit_not_of_all_memory(machine: Machine) -> None:
    group = machine.group("group", limit=10_000)
    small, large = within(group, machine, 1_000), within(group, machine, 5_000)
    small.oom_score_adj = 399
    assert machine.kill_for_memory(group) is large
    large = within(group, machine, 5_000)
    small.oom_score_adj = 401
    assert machine.kill_for_memory(group) is small


def test_page_tables_are_charged_so_fork_and_reading_may_be_refused(machine: Machine) -> None:
    group = machine.group("group", limit=105)
    process = within(group, machine, 100)
    with pytest.raises(GroupFull) as caught:
        process.fork()
    assert (caught.value.pages, caught.value.charged, process.faults.minor) == (3, 103, 100)
    with pytest.raises(GroupFull):
        process.touch(HEAP // PAGE + np.array([1 << 9, 1 << 10, 1 << 11]), write=False)
    assert machine.usage(group) == 103
    process.touch(HEAP // PAGE + np.array([1 << 9, 1 << 10]), write=False)


def test_with_nobody_to_kill_the_access_is_refused(machine: Machine) -> None:
    process = within(machine.group("group", limit=10), machine)
    process.oom_score_adj = -1000
    with pytest.raises(GroupFull):
        touch(process, HEAP // PAGE + np.arange(10))
    assert process.rss.anon == 10 - TABLES


def test_a_machine_that_is_full_kills_too() -> None:
    machine = Machine(Config(ram=100 * PAGE, overcommit=1))
    first, second = (within(machine.frames.ledger.root, machine) for _ in range(2))
    first.write(HEAP, 60 * PAGE)
    pressed = touch(second, HEAP // PAGE + np.arange(80))
    assert (pressed.touched, pressed.killed, second.rss.anon) == (80, (first,), 80)


def test_pages_that_need_no_frame_are_touched_however_full_a_group_is(machine: Machine) -> None:
    group = machine.group("group", limit=200 + 2 * TABLES)
    process = within(group, machine, 200)
    child = process.fork()
    process.exit()
    group.limit = machine.usage(group)
    pressed = touch(child, HEAP // PAGE + np.arange(200))
    assert (pressed.touched, pressed.faults.reused, pressed.killed) == (200, 200, ())
