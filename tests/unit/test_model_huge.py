"""The model's huge pages, rule by rule. Functions are of mm/huge_memory.c, 6.18, if not said otherwise."""

from __future__ import annotations

import pytest

from clonal.model import (
    HUGE,
    PAGE,
    Advice,
    BadFlags,
    BadMachine,
    Config,
    Faults,
    Kind,
    Machine,
    Map,
    Process,
    Prot,
    Unmodelled,
)

SIZE = HUGE * PAGE
AT = 1 << 40  # aligned to 2 MiB


def huge_region(process: Process, pages: int = HUGE) -> int:
    start = process.mmap(pages * PAGE, at=AT)
    process.madvise(start, pages * PAGE, Advice.HUGEPAGE)
    return start


@pytest.fixture
def process() -> Process:
    return Machine().spawn()


@pytest.fixture
def start(process: Process) -> int:
    return huge_region(process)


def huge(process: Process, pages: int = HUGE) -> int:
    return int(process.pages(AT, pages * PAGE).huge.sum())


def test_one_fault_makes_512_pages(process: Process, start: int) -> None:
    assert process.write(start) == Faults(minor=1, zeroed=HUGE)  # do_huge_pmd_anonymous_page
    assert process.write(start, SIZE) == Faults()
    assert process.rss.anon == huge(process) == HUGE


def test_a_read_maps_the_huge_zero_page_which_is_nobodys(process: Process, start: int) -> None:
    assert process.read(start, SIZE) == Faults(minor=1)
    assert sum(process.rss) == 0 and set(process.pages(start, SIZE).kind) == {Kind.ZERO}
    assert process.write(start) == Faults(minor=1, zeroed=HUGE)  # do_huge_zero_wp_pmd


def test_before_6_13_a_write_to_the_huge_zero_page_makes_a_small_one() -> None:
    process = Machine(Config(kernel=(6, 12))).spawn()
    process.read(huge_region(process))
    assert process.write(AT) == Faults(minor=1, zeroed=1)
    assert process.rss.anon == 1 and huge(process) == 0


@pytest.mark.parametrize(
    ("thp", "advice", "expected"),
    [
        ("never", Advice.HUGEPAGE, 0),
        ("madvise", Advice.HUGEPAGE, HUGE),
        ("madvise", Advice.DOFORK, 0),
        ("always", Advice.DOFORK, HUGE),
        ("always", Advice.NOHUGEPAGE, 0),
    ],
)
def test_who_gets_huge_pages(thp: str, advice: Advice, expected: int) -> None:
    process = Machine(Config(thp=thp)).spawn()
    process.mmap(SIZE, at=AT)
    process.madvise(AT, SIZE, advice)
    process.write(AT)
    assert huge(process) == expected


def test_where_a_mapping_has_no_whole_block_or_a_table_is_pages_are_small(process: Process) -> None:
    start = process.mmap(2 * SIZE, at=AT + PAGE)
    process.madvise(start, 2 * SIZE, Advice.NOHUGEPAGE)
    process.write(AT + SIZE)
    process.madvise(start, 2 * SIZE, Advice.HUGEPAGE)
    assert process.write(start, 2 * SIZE).minor == 2 * HUGE - 1
    assert huge(process, 2 * HUGE) == 0


def test_without_512_free_frames_pages_are_small() -> None:
    process = Machine(Config(ram=SIZE)).spawn()
    process.write(process.mmap(PAGE))
    assert process.write(huge_region(process)) == Faults(minor=1, zeroed=1)  # VM_FAULT_FALLBACK


def test_fork_copies_one_entry_and_keeps_a_table_in_reserve(process: Process, start: int) -> None:
    process.write(start)
    child = process.fork()
    assert process.fork_work.huge == 1 and process.fork_work.entries == 0  # copy_huge_pmd
    assert child.page_table_bytes == process.page_table_bytes == 3 * PAGE  # pgtable_trans_huge_deposit
    assert child.rss.anon == HUGE and process.machine.frames.used == HUGE


def test_a_write_to_a_shared_huge_page_splits_it_for_the_writer_and_copies_4_kib(
    process: Process, start: int
) -> None:
    process.write(start)
    child = process.fork()
    assert child.write(start) == Faults(minor=1, copied=1)  # do_huge_pmd_wp_page, fallback
    assert huge(child) == 0 and huge(process) == HUGE
    assert process.machine.frames.used == HUGE + 1


def test_the_last_sharer_reuses_all_of_a_huge_page_at_once(process: Process, start: int) -> None:
    process.write(start)
    process.fork().exit()
    assert process.write(start, SIZE) == Faults(minor=1, reused=HUGE)


@pytest.mark.parametrize(("kernel", "reused"), [((6, 14), 0), ((6, 15), 4)])
def test_the_last_sharer_of_a_split_huge_page_reuses_its_pages_since_6_15(
    kernel: tuple[int, int], reused: int
) -> None:
    """mm/memory.c __wp_can_reuse_large_anon_folio."""
    process = Machine(Config(kernel=kernel)).spawn()
    process.write(huge_region(process))
    child = process.fork()
    process.write(AT)
    child.exit()
    assert process.write(AT + PAGE, 4 * PAGE) == Faults(minor=4, copied=4 - reused, reused=reused)


def test_the_last_page_of_a_huge_one_is_copied_to_free_the_rest(process: Process, start: int) -> None:
    """__wp_can_reuse_large_anon_folio."""
    process.write(start)
    child = process.fork()
    process.exit()
    child.munmap(start + PAGE, SIZE - PAGE)
    assert child.machine.frames.used == HUGE
    assert child.write(start).copied == 1
    assert child.machine.frames.used == 1


def test_a_folio_knows_two_processes_and_takes_a_third_for_a_sharer(process: Process, start: int) -> None:
    """include/linux/rmap.h: the last of three copies although no one else is left."""
    process.write(start)
    child = process.fork()
    grandchild = child.fork()
    grandchild.write(start)
    process.exit()
    child.exit()
    assert grandchild.write(start + PAGE) == Faults(minor=1, copied=1)


def test_frames_of_a_huge_page_are_free_only_together(process: Process, start: int) -> None:
    process.write(start)
    process.munmap(start, SIZE - PAGE)
    assert process.rss.anon == 1 and process.machine.frames.used == HUGE
    process.munmap(start + SIZE - PAGE, PAGE)
    assert process.machine.frames.used == 0


def test_what_reaches_into_a_huge_page_splits_it(process: Process, start: int) -> None:
    process.write(start)
    process.mprotect(start, PAGE, process.space.vmas[0].prot & ~2)
    assert huge(process) == 0 and process.rss.anon == HUGE
    assert process.page_table_bytes == 3 * PAGE  # the table was in reserve


def test_dontneed_of_a_whole_block_frees_its_table(process: Process, start: int) -> None:
    process.write(start)
    process.madvise(start, SIZE, Advice.DONTNEED)  # mm/pt_reclaim.c, 6.14
    assert process.page_table_bytes == 2 * PAGE and process.machine.frames.used == 0


@pytest.mark.parametrize(("to", "expected"), [(AT + 8 * SIZE, HUGE), (AT + 8 * SIZE + PAGE, 0)])
def test_a_huge_page_moves_whole_if_aligned_alike(
    process: Process, start: int, to: int, expected: int
) -> None:
    process.write(start)
    frames = process.pages(start, SIZE).frame
    process.mremap(start, SIZE, SIZE, to)  # mm/mremap.c move_huge_pmd
    moved = process.pages(to, SIZE)
    assert (moved.frame == frames).all() and moved.huge.sum() == expected
    assert len(process.space.tables.huge) * HUGE == expected


def test_before_6_14_giving_up_a_huge_page_frees_the_table_in_reserve_too() -> None:
    process = Machine(Config(kernel=(6, 12))).spawn()
    process.write(huge_region(process))
    process.madvise(AT, SIZE, Advice.DONTNEED)  # mm/huge_memory.c zap_deposited_table
    assert process.page_table_bytes == 2 * PAGE


@pytest.mark.parametrize("flags", [Map.PRIVATE, Map.SHARED])
def test_mappings_of_memory_files_have_small_pages_always(flags: Map) -> None:
    process = Machine(Config(thp="always")).spawn()
    process.mmap(SIZE, flags=flags, file=process.machine.memfd(HUGE), at=AT)
    process.write(AT)
    assert (huge(process), process.rss.anon + process.rss.shmem) == (0, 1)


def test_collapse_copies_what_is_there_and_ends_sharing(process: Process) -> None:
    """mm/khugepaged.c collapse_huge_page."""
    start = process.mmap(SIZE, at=AT)
    process.write(start, 9 * PAGE)
    child = process.fork()
    assert child.madvise(start, SIZE, Advice.COLLAPSE) == Faults(copied=9)
    assert huge(child) == HUGE and child.write(start, SIZE) == Faults()
    for prot in (Prot.READ, Prot.RW):
        child.mprotect(start, SIZE, prot)
    assert child.write(start, SIZE) == Faults()
    assert process.write(start, 9 * PAGE).reused == 9


def test_collapse_refuses_what_was_never_written_and_does_not_do_files(process: Process) -> None:
    process.mmap(SIZE, at=AT)
    for _ in range(2):
        with pytest.raises(BadFlags):
            process.madvise(AT, SIZE, Advice.COLLAPSE)
        process.read(AT, 9 * PAGE)
    shared = process.mmap(SIZE, flags=Map.SHARED | Map.ANONYMOUS)
    with pytest.raises(Unmodelled):
        process.madvise(shared, SIZE, Advice.COLLAPSE)


def test_lazily_freed_pages_stay_resident(process: Process) -> None:
    start = process.mmap(4 * PAGE)
    process.write(start, 4 * PAGE)
    process.madvise(start, 4 * PAGE, Advice.FREE)  # mm/madvise.c madvise_free_single_vma
    assert process.rss.anon == 4 and process.write(start, 4 * PAGE) == Faults()


def test_a_dump_shows_huge_pages_in_capitals(process: Process, start: int) -> None:
    process.write(start)
    assert " WWW" in process.maps()
    process.fork().write(start)
    assert " CCC" in process.maps()


@pytest.mark.parametrize(("name", "value"), [("thp", "sometimes"), ("kernel", (6, 1))])
def test_unknown_kernels_are_refused(name: str, value: object) -> None:
    with pytest.raises(BadMachine) as refused:
        Config(**{name: value})  # type: ignore[arg-type]
    assert (refused.value.what, refused.value.value) == (name, value)
