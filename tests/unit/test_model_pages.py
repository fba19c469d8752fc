"""The model, rule by rule: what a fault, a fork and an end do to pages. Functions are of Linux 6.18."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from clonal.model import (
    PAGE,
    Advice,
    BadFlags,
    BadMachine,
    BadRange,
    Config,
    Faults,
    Kind,
    Machine,
    Map,
    ModelError,
    NoSuchProcess,
    OutOfFrames,
    Process,
    Prot,
    Segfault,
    WouldBlock,
)

SHARED = Map.SHARED | Map.ANONYMOUS


@pytest.fixture
def process() -> Process:
    return Machine().spawn()


def kinds(process: Process, address: int, pages: int) -> list[Kind]:
    return [Kind(kind) for kind in process.pages(address, pages * PAGE).kind]


def frame(process: Process, address: int) -> int:
    return int(process.pages(address, PAGE).frame[0])


# ---- the first touch ----


def test_a_read_of_anonymous_memory_maps_the_zero_page_which_is_nobodys(process: Process) -> None:
    """do_anonymous_page."""
    heap = process.mmap(4 * PAGE)
    assert process.read(heap, 4 * PAGE) == Faults(minor=4)
    assert kinds(process, heap, 4) == [Kind.ZERO] * 4
    assert process.rss.anon == 0
    assert process.read(heap, 4 * PAGE) == Faults()


def test_a_write_makes_a_zeroed_page_also_after_a_read(process: Process) -> None:
    """do_anonymous_page; do_wp_page of the zero page copies nothing."""
    heap = process.mmap(2 * PAGE)
    process.read(heap)
    assert process.write(heap, 2 * PAGE) == Faults(minor=2, zeroed=2)
    assert kinds(process, heap, 2) == [Kind.ANON] * 2
    assert process.rss.anon == 2


@pytest.mark.parametrize(
    ("lead", "touched", "faults", "mapped"),
    [
        (0, [0], 1, 16),
        (0, [0, 15, 16], 2, 32),
        (0, [31, 3], 2, 32),
        (5, [0], 1, 16),  # the window starts with the mapping and is 16 pages long
        (5, [11], 1, 16),  # page 16 of memory: a window aligned to 16
        (5, [0, 12], 1, 16),
        (5, [12], 1, 16),
        (5, [0, 16], 2, 27),
        (505, [0], 1, 7),  # not into the next page table
    ],
)
def test_a_read_of_a_file_maps_the_cached_pages_around(
    process: Process, lead: int, touched: list[int], faults: int, mapped: int
) -> None:
    """do_fault_around: a window of 16 pages, aligned, but not before the mapping's start."""
    file = process.machine.file(64)
    base = (1 << 30) + lead * PAGE
    process.mmap(64 * PAGE, Prot.READ, Map.PRIVATE, file, at=base)
    made = process.touch(np.array(touched) + base // PAGE, write=False)
    assert made == Faults(minor=faults, mapped=mapped)
    assert process.rss.file == mapped


def test_a_page_that_is_not_cached_costs_a_major_fault_and_those_around_are_not_mapped(
    process: Process,
) -> None:
    file = process.machine.file(32, cached=False)
    text = process.mmap(32 * PAGE, Prot.READ, Map.PRIVATE, file)
    assert process.read(text, 3 * PAGE) == Faults(major=3, mapped=3)
    assert process.machine.frames.used == 3


def test_a_private_write_to_a_file_copies_at_once(process: Process) -> None:
    """do_cow_fault: the page is never mapped as the file's."""
    data = process.mmap(2 * PAGE, Prot.RW, Map.PRIVATE, process.machine.file(2))
    assert process.write(data) == Faults(minor=1, copied=1)
    assert kinds(process, data, 2) == [Kind.ANON, Kind.NONE]


def test_a_private_write_to_a_page_that_is_not_cached_reads_it_first(process: Process) -> None:
    file = process.machine.file(2, cached=False)
    data = process.mmap(2 * PAGE, Prot.RW, Map.PRIVATE, file)
    assert process.write(data) == Faults(major=1, copied=1)
    assert (file.frame >= 0).tolist() == [True, False]


def test_a_file_page_that_was_read_is_copied_even_if_one_process_maps_it(process: Process) -> None:
    """do_wp_page reuses anonymous pages alone."""
    data = process.mmap(PAGE, Prot.RW, Map.PRIVATE, process.machine.file(1))
    process.read(data)
    assert process.write(data) == Faults(minor=1, copied=1)
    assert (process.rss.anon, process.rss.file) == (1, 0)


def test_shared_memory_is_written_where_it_is(process: Process) -> None:
    """do_shared_fault; a page that was read is writable already (vma_wants_writenotify: not for shmem)."""
    area = process.mmap(4 * PAGE, Prot.RW, SHARED)
    assert process.read(area, 2 * PAGE) == Faults(minor=2, mapped=2)
    assert process.write(area, 4 * PAGE) == Faults(minor=2, mapped=2)
    child = process.fork()
    child.write(area)
    assert frame(child, area) == frame(process, area)


def test_the_first_write_to_a_shared_page_of_a_file_is_noticed(process: Process) -> None:
    """wp_page_shared: so that the file is written back."""
    data = process.mmap(PAGE, Prot.RW, Map.SHARED, process.machine.file(1))
    process.read(data)
    assert process.write(data) == Faults(minor=1)
    assert kinds(process, data, 1) == [Kind.FILE]


# ---- fork ----


def test_after_a_fork_the_writer_gets_the_copy_and_the_last_sharer_reuses(process: Process) -> None:
    """copy_present_ptes, do_wp_page."""
    heap = process.mmap(PAGE)
    process.write(heap)
    child = process.fork()
    first = frame(process, heap)
    assert frame(child, heap) == first
    assert not process.pages(heap, PAGE).exclusive[0]
    assert child.write(heap) == Faults(minor=1, copied=1)
    assert frame(process, heap) == first != frame(child, heap)
    assert process.pages(heap, PAGE).exclusive[0]
    assert process.write(heap) == Faults(minor=1, reused=1)
    assert frame(process, heap) == first


def test_the_parents_write_copies_as_well(process: Process) -> None:
    heap = process.mmap(PAGE)
    process.write(heap)
    child = process.fork()
    old = frame(child, heap)
    assert process.write(heap) == Faults(minor=1, copied=1)
    assert frame(child, heap) == old


def test_a_page_of_three_is_copied_twice_and_reused_once(process: Process) -> None:
    heap = process.mmap(PAGE)
    process.write(heap)
    child = process.fork()
    grandchild = child.fork()
    made = [each.write(heap) for each in (child, grandchild, process)]
    assert [each.copied for each in made] == [1, 1, 0]
    assert made[-1].reused == 1


def test_the_end_of_the_others_makes_a_page_reusable(process: Process) -> None:
    heap = process.mmap(PAGE)
    process.write(heap)
    process.fork().exit()
    assert process.write(heap) == Faults(minor=1, reused=1)


def test_fork_copies_entries_only_where_something_was_written_privately(process: Process) -> None:
    """vma_needs_copy: an anon_vma. The child of a file that was only read faults again."""
    file = process.machine.file(16)
    text = process.mmap(16 * PAGE, Prot.READ, Map.PRIVATE, file)
    zeros = process.mmap(4 * PAGE, Prot.RW)
    heap = process.mmap(4 * PAGE, Prot.RW | Prot.EXEC)
    process.read(text, 16 * PAGE)
    process.read(zeros, 4 * PAGE)
    process.write(heap, 3 * PAGE)
    child = process.fork()
    work = process.fork_work
    assert (work.vmas, work.copied_vmas, work.entries) == (3, 1, 3)
    assert kinds(child, text, 1) == kinds(child, zeros, 1) == [Kind.NONE]
    assert child.read(text) == Faults(minor=1, mapped=16)


def test_a_child_has_the_page_tables_of_what_was_copied(process: Process) -> None:
    """copy_pte_range: one PTE table for 2 MiB, and one each of the levels above; VmPTE."""
    heap = process.mmap(4 << 20, at=1 << 30)
    process.write(heap, 4 << 20)
    child = process.fork()
    assert child.page_table_bytes == process.page_table_bytes == (2 + 1 + 1) * PAGE
    assert process.fork_work.tables == 2
    process.mmap(1 << 20, Prot.READ)
    assert process.page_table_bytes == 4 * PAGE


def test_dontfork_and_wipeonfork(process: Process) -> None:
    """dup_mmap: VM_DONTCOPY is left out, VM_WIPEONFORK comes empty."""
    gone, wiped = process.mmap(PAGE), process.mmap(PAGE, Prot.RW | Prot.EXEC)
    for area, advice in ((gone, Advice.DONTFORK), (wiped, Advice.WIPEONFORK)):
        process.write(area)
        process.madvise(area, PAGE, advice)
    child = process.fork()
    with pytest.raises(Segfault):
        child.read(gone)
    assert child.read(wiped) == Faults(minor=1)
    assert kinds(child, wiped, 1) == [Kind.ZERO]
    assert child.page_table_bytes


def test_what_comes_empty_to_the_child_has_no_anon_vma_there(process: Process) -> None:
    """dup_mmap sets it to none: the child's own fork copies no entries of it."""
    wiped = process.mmap(PAGE)
    process.write(wiped)
    process.madvise(wiped, PAGE, Advice.WIPEONFORK)
    child = process.fork()
    child.madvise(wiped, PAGE, Advice.KEEPONFORK)
    child.read(wiped)
    child.fork()
    assert child.fork_work.copied_vmas == 0


def test_mlock_is_not_inherited_and_does_not_save_the_child_its_faults(process: Process) -> None:
    heap = process.mmap(8 * PAGE)
    assert process.mlock(heap, 8 * PAGE).zeroed == 8
    child = process.fork()
    assert not child.space.vmas[0].locked
    assert child.write(heap, 8 * PAGE).copied == 8


def test_populate_in_the_child_copies_ahead(process: Process) -> None:
    heap = process.mmap(8 * PAGE)
    process.write(heap, 8 * PAGE)
    child = process.fork()
    assert child.madvise(heap, 8 * PAGE, Advice.POPULATE_WRITE).copied == 8
    assert child.write(heap, 8 * PAGE) == Faults()


def test_pretouching_in_the_parent_makes_the_childs_writes_dearer(process: Process) -> None:
    """A page never touched is zero-filled in the child, one that the parent wrote must be copied."""
    touched, untouched = process.mmap(4 * PAGE), process.mmap(4 * PAGE, Prot.RW | Prot.EXEC)
    process.write(touched, 4 * PAGE)
    child = process.fork()
    assert child.write(touched, 4 * PAGE) == Faults(minor=4, copied=4)
    assert child.write(untouched, 4 * PAGE) == Faults(minor=4, zeroed=4)


def test_vfork_borrows_the_memory_until_exec(process: Process) -> None:
    heap = process.mmap(PAGE)
    process.write(heap)
    child = process.vfork()
    assert child.write(heap) == Faults()
    child.exec()
    assert process.pages(heap, PAGE).exclusive[0]
    with pytest.raises(Segfault):
        child.read(heap)


def test_exec_gives_the_old_pages_back(process: Process) -> None:
    heap = process.mmap(4 * PAGE)
    process.write(heap, 4 * PAGE)
    child = process.fork()
    child.write(heap, 4 * PAGE)
    used = process.machine.frames.used
    child.exec()
    assert process.machine.frames.used == used - 4
    assert child.page_table_bytes == 0


# ---- the image ----


def test_an_image_costs_a_fork_its_mapping_alone_and_a_reader_nothing(process: Process) -> None:
    """A private mapping of a memory file: no anon_vma, so no entry is copied."""
    image = process.machine.memfd(1024)
    heap = process.mmap(1024 * PAGE, Prot.RW, Map.PRIVATE, image)
    process.read(heap, 1024 * PAGE)
    child = process.fork()
    assert process.fork_work.entries == 0
    made = child.read(heap, 1024 * PAGE)
    assert made == Faults(minor=64, mapped=1024)
    assert child.rss.anon == 0
    assert child.write(heap).copied == 1


# ---- accounting ----


def test_pss_divides_a_page_among_those_that_map_it(process: Process) -> None:
    heap = process.mmap(6 * PAGE)
    process.write(heap, 6 * PAGE)
    child = process.fork()
    child.fork()
    child.write(heap, 3 * PAGE)
    assert process.pss() == PAGE * (3 / 2 + 3 / 3)
    assert child.pss() == PAGE * (3 + 3 / 3)
    assert (process.uss(), child.uss()) == (0, 3 * PAGE)


def test_commit_counts_private_writable_mappings_in_full_and_again_at_fork(process: Process) -> None:
    """accountable_mapping; dup_mmap charges every such mapping, not what DONTFORK leaves out."""
    process.mmap(10 * PAGE)
    process.mmap(10 * PAGE, Prot.READ)
    process.mmap(10 * PAGE, flags=Map.PRIVATE | Map.ANONYMOUS | Map.NORESERVE)
    left_out = process.mmap(7 * PAGE, Prot.RW | Prot.EXEC)
    process.madvise(left_out, 7 * PAGE, Advice.DONTFORK)
    assert process.machine.committed == 17
    child = process.fork()
    assert process.machine.committed == 27
    child.exit()
    assert process.machine.committed == 17


def test_all_frames_come_back(process: Process) -> None:
    machine = process.machine
    heap = process.mmap(100 * PAGE)
    process.write(heap, 100 * PAGE)
    children = [process.fork() for _ in range(3)]
    for child in children:
        child.write(heap, 40 * PAGE)
    process.exit()
    for child in children:
        child.exit()
    assert machine.frames.used == 0
    assert not machine.frames.mapped.any()


def test_a_machine_runs_out_of_frames() -> None:
    process = Machine(Config(ram=11 * PAGE, overcommit=1)).spawn()  # three of them for page tables
    heap = process.mmap(16 * PAGE, at=1 << 30)
    process.write(heap, 8 * PAGE)
    with pytest.raises(OutOfFrames) as caught:
        process.write(heap + 8 * PAGE)
    assert (caught.value.wanted, caught.value.free) == (1, 0)


# ---- mappings ----


def test_neighbours_that_are_alike_become_one_mapping(process: Process) -> None:
    first = process.mmap(PAGE, at=1 << 30)
    process.write(first)
    process.mmap(PAGE, at=(1 << 30) + PAGE)
    process.mmap(PAGE, Prot.READ, at=(1 << 30) + 2 * PAGE)
    assert [vma.pages for vma in process.space.vmas] == [2, 1]
    assert kinds(process, first, 3) == [Kind.ANON, Kind.NONE, Kind.NONE]


def test_a_mapping_that_joins_one_with_private_pages_is_copied_at_fork(process: Process) -> None:
    """mm/vma.c dup_anon_vma."""
    process.mmap(PAGE, at=(1 << 30) + PAGE)
    process.write((1 << 30) + PAGE)
    process.mmap(PAGE, at=1 << 30)
    process.fork()
    assert (process.fork_work.copied_vmas, process.fork_work.entries) == (1, 1)


def test_only_a_mapping_that_changes_joins_its_neighbours(process: Process) -> None:
    """vma_modify: a child's mappings, alike since locks are not inherited, stay apart until one changes."""
    heap = process.mmap(8 * PAGE, Prot.READ)
    process.mlock(heap + 4 * PAGE, 4 * PAGE)
    child = process.fork()
    child.madvise(heap, 8 * PAGE, Advice.DONTNEED)
    child.mprotect(heap + PAGE, PAGE, Prot.NONE)
    assert [vma.pages for vma in child.space.vmas] == [1, 1, 2, 4]
    child.mprotect(heap + 3 * PAGE, PAGE, Prot.NONE)
    child.mprotect(heap + 3 * PAGE, PAGE, Prot.READ)
    assert [vma.pages for vma in child.space.vmas] == [1, 1, 6]


@pytest.mark.parametrize(("lock", "mappings"), [(False, [2]), (True, [1, 1])])
def test_mappings_join_if_they_came_to_private_pages_alike(
    process: Process, lock: bool, mappings: list[int]
) -> None:
    """find_mergeable_anon_vma: what differs in protection alone has the neighbour's anon_vma."""
    heap = process.mmap(2 * PAGE)
    process.mprotect(heap, PAGE, Prot.RW | Prot.EXEC)
    process.write(heap)
    if lock:
        process.mlock(heap + PAGE, PAGE)
    process.write(heap + PAGE)
    process.munlock(heap, 2 * PAGE)
    process.mprotect(heap, PAGE, Prot.RW)
    assert [vma.pages for vma in process.space.vmas] == mappings


def test_no_mapping_takes_over_private_pages_that_its_parent_had_too(process: Process) -> None:
    """is_mergeable_anon_vma, vma_is_fork_child: a neighbour that was never written stays apart."""
    heap = process.mmap(4 * PAGE)
    process.mlock(heap + 2 * PAGE, 2 * PAGE)
    child = process.fork()
    for each in (process, child):
        each.munlock(heap, 4 * PAGE)
        each.mprotect(heap + PAGE, PAGE, Prot.READ)
        each.mprotect(heap + PAGE, PAGE, Prot.RW)
    assert [[vma.pages for vma in each.space.vmas] for each in (process, child)] == [[4], [2, 2]]


@pytest.mark.parametrize(("second", "mappings"), [(PAGE, 1), (2 * PAGE, 2), (0, 2)])
def test_mappings_of_a_file_join_in_the_files_order(process: Process, second: int, mappings: int) -> None:
    """can_vma_merge_after: vm_pgoff."""
    file = process.machine.file(3)
    for at, offset in ((0, 0), (PAGE, second)):
        process.mmap(PAGE, Prot.READ, Map.PRIVATE, file, offset, at=(1 << 30) + at)
    assert len(process.space.vmas) == mappings


def test_unmapping_the_middle_splits_and_frees(process: Process) -> None:
    heap = process.mmap(3 * PAGE)
    process.write(heap, 3 * PAGE)
    process.munmap(heap + PAGE, PAGE)
    assert [vma.pages for vma in process.space.vmas] == [1, 1]
    assert process.machine.frames.used == 2
    with pytest.raises(Segfault):
        process.read(heap + PAGE)


def test_page_tables_go_with_the_last_mapping_in_their_span(process: Process) -> None:
    """free_pgd_range: not as long as a neighbour may need them."""
    heap = process.mmap(2 << 20, at=1 << 30)
    process.write(heap, 2 << 20)
    process.munmap(heap, 1 << 20)
    assert process.page_table_bytes == 3 * PAGE
    process.munmap(heap + (1 << 20), 1 << 20)
    assert process.page_table_bytes == 0
    process.write(process.mmap(2 << 20, at=heap), 2 << 20)
    process.munmap(heap + (1 << 20), 1 << 20)
    assert process.page_table_bytes == 3 * PAGE


def test_protection_is_checked_and_given_back(process: Process) -> None:
    """can_change_private_pte_writable: an exclusive page needs no fault to become writable again."""
    heap = process.mmap(2 * PAGE)
    process.write(heap, 2 * PAGE)
    process.mprotect(heap, 2 * PAGE, Prot.READ)
    with pytest.raises(Segfault):
        process.write(heap)
    child = process.fork()
    for each in (process, child):
        each.mprotect(heap, 2 * PAGE, Prot.RW)
    assert child.write(heap).copied == 1
    child.exit()
    process.write(heap, 2 * PAGE)
    process.mprotect(heap, 2 * PAGE, Prot.READ)
    process.mprotect(heap, 2 * PAGE, Prot.RW)
    assert process.write(heap, 2 * PAGE) == Faults()


def test_dontneed_drops_pages(process: Process) -> None:
    heap = process.mmap(2 * PAGE)
    process.write(heap, 2 * PAGE)
    process.madvise(heap, PAGE, Advice.DONTNEED)
    assert kinds(process, heap, 2) == [Kind.NONE, Kind.ANON]


def test_a_dump_shows_what_would_be_copied(process: Process) -> None:
    heap = process.mmap(4 * PAGE, at=1 << 30)
    process.write(heap, 2 * PAGE)
    process.read(heap + 2 * PAGE)
    process.fork()
    process.write(heap)
    assert process.maps() == "000040000000-000040004000 rw-p wc0."


# ---- what cannot be ----


def test_impossible_requests_are_refused_with_the_values(process: Process) -> None:
    heap = process.mmap(2 * PAGE, at=1 << 30)
    file = process.machine.file(2)
    refused = [
        (BadRange, lambda: process.mmap(PAGE, at=heap + PAGE)),
        (BadRange, lambda: process.mmap(PAGE, at=123)),
        (BadRange, lambda: process.mmap(0)),
        (BadRange, lambda: process.mmap(3 * PAGE, Prot.READ, Map.PRIVATE, file)),
        (BadRange, lambda: process.mprotect(heap, 4 * PAGE, Prot.READ)),
        (BadFlags, lambda: process.mmap(PAGE, flags=Map.ANONYMOUS)),
        (BadFlags, lambda: process.mmap(PAGE, flags=Map.PRIVATE)),
        (BadMachine, lambda: Config(ram=0)),
        (BadMachine, lambda: Config(fault_around=3)),
        (Segfault, lambda: process.read(1 << 20)),
        (Segfault, lambda: process.write(heap, 3 * PAGE)),
        (WouldBlock, lambda: process.wait(process.fork())),
        (WouldBlock, lambda: process.wait(process.machine.spawn())),
    ]
    for kind, ask in refused:
        with pytest.raises(kind) as caught:
            ask()
        assert isinstance(caught.value, ModelError)
        again = pickle.loads(pickle.dumps(caught.value))
        assert str(again) == str(caught.value)
        assert again.data == caught.value.data


def test_what_lies_before_a_page_that_is_refused_is_touched(process: Process) -> None:
    heap = process.mmap(2 * PAGE, at=1 << 30)
    with pytest.raises(Segfault) as caught:
        process.write(heap, 3 * PAGE)
    assert caught.value.address == heap + 2 * PAGE
    assert process.faults == Faults(minor=2, zeroed=2)


def test_a_process_that_has_ended_does_nothing_more(process: Process) -> None:
    child = process.fork()
    child.exit(3)
    assert process.wait(child) == 3
    with pytest.raises(NoSuchProcess):
        child.mmap(PAGE)


def test_clones_copy_exactly_what_they_write() -> None:
    """500 MiB of heap, 5 % written by each of 20 clones: 6,400 pages each."""
    machine = Machine(Config(ram=8 << 30))
    process = machine.spawn()
    heap = process.mmap(500 << 20)
    process.write(heap, 500 << 20)
    random = np.random.default_rng(0)
    copied = 0
    for _ in range(20):
        pages = random.choice(128_000, 6_400, replace=False) + heap // PAGE
        copied += process.fork().touch(pages).copied
    assert copied == 20 * 6_400
    assert machine.frames.used == 128_000 + copied
