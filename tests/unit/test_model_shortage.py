"""Where memory runs out: page tables take frames too, and an access or a fork that fails changes nothing."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest

from clonal.model import (
    HUGE,
    PAGE,
    Advice,
    BadFlags,
    BadRange,
    Config,
    GroupFull,
    Kind,
    Machine,
    Map,
    Mode,
    OutOfFrames,
    Process,
    Prot,
)
from clonal.model.frames import NO_FRAME

AT = 1 << 30
FIRST = AT // PAGE
TABLES = 3  # of memory within 2 MiB


def state(machine: Machine) -> dict[str, Any]:
    """All that an access may change."""
    found: dict[str, Any] = {"used": machine.frames.used, "free": machine.frames.free}
    found["left"] = list(machine.frames.banks.left)
    found["usage"] = [machine.usage(group) for group in machine.frames.ledger.groups]
    for process in alive(machine):
        seen = process.faults, process.rss, process.space.splits, process.tlb_flushes
        tables = process.space.tables
        found[f"{process.pid}"] = *seen, tuple(map(frozenset, tables.at)), frozenset(tables.huge)
        for vma in process.space.vmas:
            present = vma.frame[vma.frame != NO_FRAME]
            shares = machine.frames.mapped[present].tolist(), machine.frames.exclusive[present].tolist()
            cache = None if vma.file is None else vma.file.frame.tolist()
            arrays = vma.frame.tolist(), vma.writable.tolist()
            found[f"{process.pid} {vma.start:x}"] = vma.end, vma.anon_vma, *arrays, *shares, cache
    return found


def alive(machine: Machine) -> list[Process]:
    return [each for each in machine.processes.values() if each.exit_code is None]


def assert_consistent(machine: Machine) -> None:
    """The invariants that the model's README states."""
    frames, spaces = machine.frames, {id(each.space): each.space for each in alive(machine)}
    mapped = np.zeros_like(frames.mapped)
    for space in spaces.values():
        for vma in space.vmas:
            np.add.at(mapped, space.resident(vma), 1)
            assert space.tables.huge <= space.tables.at[0]
            private = vma.frame[vma.writable] if not vma.shared else np.empty(0, np.int32)
            assert frames.exclusive[private].all()
    assert (mapped == frames.mapped).all()
    assert frames.tables.pages == sum(space.tables.pages for space in spaces.values())
    assert frames.free == frames.count - frames.used - frames.tables.pages >= 0
    assert sum(frames.banks.left) == frames.count - frames.used
    loose = np.flatnonzero((frames.mapped == 0) & (frames.kind == Kind.ANON) & (frames.head == 0))
    assert not loose.size
    assert not frames.exclusive[frames.kind == Kind.NONE].any()


def full(ram: int, **more: Any) -> Process:
    return Machine(Config(ram=ram * PAGE, overcommit=1, **more)).spawn()


def test_page_tables_take_frames_until_their_process_ends() -> None:
    process = full(100)
    process.mmap(8 * HUGE * PAGE, at=AT)
    process.touch(FIRST + HUGE * np.arange(8), write=False)
    assert (process.machine.frames.used, process.machine.frames.free) == (0, 90)
    child = process.fork()
    assert process.machine.frames.free == 90
    process.touch(FIRST + np.arange(1))
    child = process.fork()
    assert process.machine.frames.free == 79
    child.exec()
    assert process.machine.frames.free == 89
    process.exit()
    assert process.machine.frames.free == 100


def test_reading_alone_can_fill_a_machine_with_page_tables() -> None:
    process = full(9)
    process.mmap(8 * HUGE * PAGE, at=AT)
    with pytest.raises(OutOfFrames) as caught:
        process.touch(FIRST + HUGE * np.arange(8), write=False)
    assert (caught.value.wanted, caught.value.free) == (10, 9)
    assert process.page_table_bytes == 0 and process.machine.frames.free == 9
    process.touch(FIRST + HUGE * np.arange(7), write=False)
    assert process.machine.frames.free == 0


def test_a_fork_without_room_for_its_tables_leaves_the_parents_pages_writable() -> None:
    process = full(10)
    process.write(process.mmap(5 * PAGE, at=AT), 5 * PAGE)
    before = state(process.machine)
    with pytest.raises(OutOfFrames) as caught:
        process.fork()
    assert (caught.value.wanted, caught.value.free) == (3, 2)
    assert state(process.machine) == before


def test_a_move_without_room_for_tables_at_its_end_is_refused() -> None:
    process = full(8)
    process.write(process.mmap(4 * PAGE, at=AT), 4 * PAGE)
    before = state(process.machine)
    with pytest.raises(OutOfFrames):
        process.mremap(AT, 4 * PAGE, 4 * PAGE, at=1 << 40)
    assert state(process.machine) == before
    assert process.mremap(AT, 4 * PAGE, 4 * PAGE, at=AT + 16 * PAGE) == AT + 16 * PAGE


def test_a_mapping_that_cannot_be_filled_is_none() -> None:
    process = full(8)
    with pytest.raises(OutOfFrames):
        process.mmap(16 * PAGE, flags=Map.PRIVATE | Map.ANONYMOUS | Map.POPULATE)
    assert not process.space.vmas and process.machine.frames.free == 8


def test_what_a_failed_read_had_brought_into_the_cache_is_there_no_more() -> None:
    process = full(40)
    file = process.machine.file(32, cached=False)
    process.mmap(32 * PAGE, flags=Map.PRIVATE, file=file, at=AT)
    with pytest.raises(OutOfFrames):
        process.write(AT, 32 * PAGE)
    assert (file.frame == NO_FRAME).all() and process.machine.frames.free == 40


def test_a_failed_write_over_several_mappings_takes_back_the_first() -> None:
    process = full(30)
    for at, prot in ((AT, Prot.RW), (AT + 16 * PAGE, Prot.RW | Prot.EXEC)):
        process.mmap(16 * PAGE, prot, at=at)
    with pytest.raises(OutOfFrames):
        process.write(AT, 32 * PAGE)
    assert (process.rss.anon, process.faults.minor, process.machine.frames.free) == (0, 0, 30)


def test_a_huge_page_that_a_failed_write_split_is_whole_again() -> None:
    process = full(HUGE + 2 * TABLES + 5)
    process.mmap(HUGE * PAGE, at=AT)
    process.madvise(AT, HUGE * PAGE, Advice.HUGEPAGE)
    process.write(AT)
    child = process.fork()
    before = state(process.machine)
    with pytest.raises(OutOfFrames):
        child.write(AT, 6 * PAGE)
    assert state(process.machine) == before
    child.write(AT, 5 * PAGE)
    assert_consistent(process.machine)


def test_where_huge_pages_and_their_tables_do_not_fit_small_ones_are_made() -> None:
    process = full(HUGE + TABLES - 1)
    process.mmap(HUGE * PAGE, at=AT)
    process.madvise(AT, HUGE * PAGE, Advice.HUGEPAGE)
    assert process.write(AT).zeroed == 1


class Walk:
    """Operations at random on a machine that is nearly full."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        ram = random.choice([60, 150, 700, 2500])
        nodes = random.choice([1, 1, 2])
        self.machine = Machine(Config(ram=ram * PAGE, overcommit=1, nodes=nodes))
        first = self.machine.spawn()
        if random.random() < 0.5:
            first.group = self.machine.group("group", limit=random.randrange(20, ram))
        self.files = [self.machine.file(64, cached=False), self.machine.memfd(64)]
        self.refused = 0

    def go(self, steps: int) -> None:
        for _ in range(steps):
            process = self.random.choice(alive(self.machine))
            before = state(self.machine)
            try:
                self.random.choice([self.map, *[self.touch] * 3, self.fork, self.end])(process)
            except (OutOfFrames, GroupFull):
                assert state(self.machine) == before
                self.refused += 1
            except (BadRange, BadFlags):
                pass
            assert_consistent(self.machine)

    def map(self, process: Process) -> None:
        at = AT + self.random.randrange(6) * 2 * HUGE * PAGE
        file = self.random.choice([None, None, *self.files])
        flags = self.random.choice([Map.PRIVATE, Map.PRIVATE, Map.SHARED]) if file else Map.PRIVATE
        length = 64 * PAGE if file else 2 * HUGE * PAGE
        process.mmap(length, flags=flags | (Map.ANONYMOUS if file is None else 0), file=file, at=at)
        if file is None and self.random.random() < 0.4:
            process.madvise(at, length, Advice.HUGEPAGE)
        if self.machine.config.nodes == 2 and self.random.random() < 0.5:
            process.mbind(at, length, self.random.choice([Mode.BIND, Mode.PREFERRED]), (1,))

    def touch(self, process: Process) -> None:
        if not process.space.vmas:
            return
        several = self.random.sample(process.space.vmas, min(2, len(process.space.vmas)))
        pages = [vma.start + self.random.randrange(vma.pages) for vma in several for _ in range(30)]
        process.touch(pages[:: self.random.choice([1, 7, 30])], write=self.random.random() < 0.8)

    def fork(self, process: Process) -> None:
        if len(alive(self.machine)) < 4:
            process.fork()

    def end(self, process: Process) -> None:
        if process.space.vmas and self.random.random() < 0.5:
            vma = self.random.choice(process.space.vmas)
            process.munmap(vma.start * PAGE, self.random.choice([vma.pages, 70]) * PAGE)
        elif len(alive(self.machine)) > 1:
            process.exit()


def test_whatever_was_refused_changed_nothing() -> None:
    walks = [Walk(seed) for seed in range(120)]
    for walk in walks:
        walk.go(40)
    refused = sum(walk.refused for walk in walks)
    print(f"{refused} operations refused")
    assert refused > 300
