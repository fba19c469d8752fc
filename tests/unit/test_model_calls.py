"""The model's brk, clone3 and pinned pages. Functions are of Linux 6.18."""

from __future__ import annotations

import pytest

from clonal.model import (
    HUGE,
    PAGE,
    Advice,
    BadFlags,
    Clone,
    Config,
    Faults,
    Kind,
    Machine,
    Map,
    OutOfFrames,
    Process,
)


@pytest.fixture
def process() -> Process:
    return Machine().spawn()


def test_brk_grows_and_shrinks_one_mapping(process: Process) -> None:
    """mm/mmap.c brk."""
    heap = process.brk()
    assert process.brk(heap + 3 * PAGE + 5) == heap + 3 * PAGE + 5
    assert process.brk(heap + 8 * PAGE) == heap + 8 * PAGE
    assert [vma.pages for vma in process.space.vmas] == [8]
    process.write(heap, 8 * PAGE)
    assert process.brk(heap + PAGE) == heap + PAGE
    assert process.rss.anon == 1
    child = process.fork()
    assert child.brk() == heap + PAGE


def test_brk_that_cannot_move_stays(process: Process) -> None:
    heap = process.brk()
    process.mmap(PAGE, at=heap + 2 * PAGE)
    assert process.brk(heap + 4 * PAGE) == process.brk(heap - 1) == heap
    strict = Machine(Config(ram=1 << 20, overcommit=2, admin_reserve=0)).spawn()
    assert strict.brk(strict.brk() + (1 << 20)) == strict.brk()


def test_a_move_takes_its_entries_to_page_tables_there(process: Process) -> None:
    """mm/mremap.c move_page_tables."""
    start = process.mmap(4 * PAGE, at=1 << 30)
    process.write(start, 4 * PAGE)
    process.mremap(start, 4 * PAGE, 4 * PAGE, at=1 << 40)
    assert process.page_table_bytes == 3 * PAGE
    assert process.write(1 << 40, 4 * PAGE) == Faults()


def test_a_mapping_can_be_filled_as_it_is_made(process: Process) -> None:
    """mm/gup.c __mm_populate."""
    start = process.mmap(4 * PAGE, flags=Map.PRIVATE | Map.ANONYMOUS | Map.POPULATE)
    assert process.write(start, 4 * PAGE) == Faults()


def test_locked_memory_is_not_given_up(process: Process) -> None:
    """madvise_dontneed_free_valid_vma."""
    start = process.mmap(PAGE)
    process.mlock(start, PAGE)
    for advice in (Advice.DONTNEED, Advice.FREE):
        with pytest.raises(BadFlags):
            process.madvise(start, PAGE, advice)
    process.munlock(start, PAGE)
    process.madvise(start, PAGE, Advice.DONTNEED)
    assert process.rss.anon == 0


@pytest.mark.parametrize(("kernel", "tables"), [((6, 12), 3), ((6, 14), 2)])
def test_dontneed_of_a_tables_whole_span_frees_it_since_6_14(kernel: tuple[int, int], tables: int) -> None:
    """mm/pt_reclaim.c."""
    process = Machine(Config(kernel=kernel)).spawn()
    start = process.mmap(HUGE * PAGE, at=1 << 30)
    process.write(start)
    process.madvise(start, (HUGE - 1) * PAGE, Advice.DONTNEED)
    assert process.page_table_bytes == 3 * PAGE
    process.madvise(start, HUGE * PAGE, Advice.DONTNEED)
    assert process.page_table_bytes == tables * PAGE


def test_clone3_forks_or_shares_the_memory(process: Process) -> None:
    """kernel/fork.c copy_mm."""
    start = process.mmap(PAGE)
    process.write(start)
    assert process.clone3(Clone(0)).write(start) == Faults(minor=1, copied=1)
    for flags in (Clone.VM, Clone.VM | Clone.VFORK):
        child = process.clone3(flags)
        assert child.space is process.space and child.borrows == bool(flags & Clone.VFORK)
    with pytest.raises(BadFlags):
        process.clone3(Clone.VFORK)


def test_fork_copies_a_pinned_page_and_leaves_it_to_the_parent(process: Process) -> None:
    """mm/memory.c copy_present_page."""
    start = process.mmap(3 * PAGE)
    process.write(start, 3 * PAGE)
    pin = process.pin(start + PAGE, PAGE)
    child = process.fork()
    mine, theirs = process.pages(start, 3 * PAGE), child.pages(start, 3 * PAGE)
    assert (mine.frame == theirs.frame).tolist() == [True, False, True]
    assert mine.writable.tolist() == theirs.writable.tolist() == [False, True, False]
    pin.release()
    process.fork()
    assert not process.pages(start, 3 * PAGE).writable.any()


def test_a_huge_page_with_a_pinned_one_is_split_and_copied_throughout(process: Process) -> None:
    """mm/huge_memory.c copy_huge_pmd: pins are counted for the folio."""
    start = process.mmap(HUGE * PAGE, at=1 << 40)
    process.madvise(start, HUGE * PAGE, Advice.HUGEPAGE)
    process.pin(start, PAGE)
    child = process.fork()
    assert not process.pages(start, HUGE * PAGE).huge.any()
    assert process.machine.frames.used == 2 * HUGE
    assert child.write(start, HUGE * PAGE) == Faults()


@pytest.mark.parametrize("hugepage", [False, True])
def test_a_pinned_frame_outlives_its_mapping(process: Process, hugepage: bool) -> None:
    start = process.mmap(HUGE * PAGE, at=1 << 40)
    process.madvise(start, HUGE * PAGE, Advice.HUGEPAGE if hugepage else Advice.NOHUGEPAGE)
    pin = process.pin(start, PAGE)
    process.exit()
    assert process.machine.frames.used == (HUGE if hugepage else 1)
    pin.release()
    pin.release()
    assert process.machine.frames.used == 0


def test_a_fork_without_room_for_the_copies_changes_nothing() -> None:
    process = Machine(Config(ram=13 * PAGE)).spawn()  # four pages twice and three tables twice are one more
    start = process.mmap(4 * PAGE)
    process.pin(start, 4 * PAGE)
    with pytest.raises(OutOfFrames):
        process.fork()
    assert process.pages(start, 4 * PAGE).writable.all() and process.machine.frames.used == 4


def test_shared_pages_of_a_disk_file_cannot_be_pinned_for_long(process: Process) -> None:
    """mm/gup.c writable_file_mapping_allowed."""
    for file in (process.machine.memfd(2), process.machine.file(2)):
        start = process.mmap(2 * PAGE, flags=Map.SHARED, file=file)
        if file.kind is Kind.SHMEM:
            process.pin(start, 2 * PAGE).release()
        else:
            with pytest.raises(BadFlags):
                process.pin(start, 2 * PAGE)
