"""When the model's kernel asks for a flush of TLBs: once a page that is replaced, once a call (6.18)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from clonal.model import (
    HUGE,
    PAGE,
    Advice,
    BadFlags,
    BadRange,
    Clone,
    Config,
    Machine,
    Map,
    OutOfFrames,
    Process,
    Prot,
)
from clonal.model.strategies import Eager

AT = 1 << 40  # aligned to 2 MiB
SIZE = HUGE * PAGE
FEW = 8
READ_EXEC = Prot.READ | Prot.EXEC


@pytest.fixture
def process() -> Process:
    return Machine().spawn()


@pytest.fixture
def written(process: Process) -> Process:
    """It has written the first of 16 pages."""
    process.mmap(2 * FEW * PAGE, at=AT)
    process.write(AT, FEW * PAGE)
    return process


@pytest.fixture
def huge(process: Process) -> Process:
    """It has written a huge page, and may have another."""
    process.mmap(2 * SIZE, at=AT)
    process.madvise(AT, 2 * SIZE, Advice.HUGEPAGE)
    process.write(AT)
    return process


def asked(machine: Machine, call: Callable[[], object]) -> int:
    """How many flushes a call asks for."""
    before = machine.tlb_flushes
    call()
    return machine.tlb_flushes - before


# ---- accesses ----


def test_an_entry_where_none_was_is_in_no_tlb(process: Process) -> None:
    """do_anonymous_page, do_read_fault, do_cow_fault, do_shared_fault."""
    file = process.machine.file(FEW)
    process.mmap(FEW * PAGE, flags=Map.PRIVATE, file=file, at=AT)
    process.mmap(FEW * PAGE, flags=Map.SHARED, file=file, at=AT + SIZE)
    process.mmap(FEW * PAGE, at=AT + 2 * SIZE)
    for start in (AT, AT + SIZE, AT + 2 * SIZE):
        process.write(start)
        process.read(start, FEW * PAGE)
    assert process.tlb_flushes == process.machine.tlb_flushes == 0


def test_each_copy_flushes_its_page(written: Process) -> None:
    """wp_page_copy: ptep_clear_flush, of the writer's only."""
    child = written.fork()
    before = written.tlb_flushes
    assert child.write(AT, 3 * PAGE).copied == child.tlb_flushes == 3
    assert written.tlb_flushes == before


def test_a_reuse_flushes_nothing(written: Process) -> None:
    """wp_page_reuse: the entry only allows more."""
    child = written.fork()
    child.write(AT, 3 * PAGE)
    assert asked(written.machine, lambda: written.write(AT, 3 * PAGE)) == 0
    child.exit()
    assert asked(written.machine, lambda: written.write(AT, FEW * PAGE)) == 0


def test_a_zero_page_that_becomes_a_real_one_is_flushed(process: Process) -> None:
    process.mmap(FEW * PAGE, at=AT)
    process.read(AT, FEW * PAGE)
    assert process.tlb_flushes == 0
    assert process.write(AT, 2 * PAGE).zeroed == process.tlb_flushes == 2


def test_a_write_to_a_files_page_that_was_read_flushes_if_it_copies(process: Process) -> None:
    file = process.machine.file(FEW)
    process.mmap(FEW * PAGE, flags=Map.PRIVATE, file=file, at=AT)
    process.mmap(FEW * PAGE, flags=Map.SHARED, file=file, at=AT + SIZE)
    process.read(AT, FEW * PAGE)
    process.read(AT + SIZE, FEW * PAGE)
    assert asked(process.machine, lambda: process.write(AT + SIZE, FEW * PAGE)) == 0  # wp_page_shared
    assert asked(process.machine, lambda: process.write(AT, FEW * PAGE)) == FEW


def test_an_access_that_fails_has_asked_for_nothing() -> None:
    process = Machine(Config(ram=(FEW + 6) * PAGE, overcommit=1)).spawn()
    process.mmap(2 * FEW * PAGE, at=AT)
    process.madvise(AT + FEW * PAGE, FEW * PAGE, Advice.DONTFORK)  # a mapping of its own: it fails in that
    process.read(AT, FEW * PAGE)
    with pytest.raises(OutOfFrames):
        process.write(AT, 2 * FEW * PAGE)
    assert process.tlb_flushes == process.machine.tlb_flushes == 0


# ---- fork, exec, exit ----


def test_fork_flushes_the_parent_once(written: Process) -> None:
    """dup_mmap: flush_tlb_mm, whatever there is to protect."""
    child = written.fork()
    assert (written.tlb_flushes, child.tlb_flushes) == (1, 0)
    empty = written.machine.spawn()
    empty.fork()
    assert empty.tlb_flushes == 1


def test_vfork_flushes_nothing_and_shares_the_count(written: Process) -> None:
    child = written.vfork()
    assert written.machine.tlb_flushes == 0
    child.munmap(AT, PAGE)
    assert written.tlb_flushes == child.tlb_flushes == 1


@pytest.mark.parametrize("end", [Process.exec, Process.exit])
def test_the_last_user_of_an_address_space_flushes_it_once(
    end: Callable[[Process], None], written: Process
) -> None:
    """exit_mmap: tlb_finish_mmu."""
    machine, child = written.machine, written.clone3(Clone.VM)
    assert asked(machine, lambda: end(child)) == 0
    assert asked(machine, lambda: end(written)) == 1


def test_the_end_of_an_address_space_without_tables_flushes_nothing(process: Process) -> None:
    process.mmap(PAGE, at=AT)
    assert asked(process.machine, process.exit) == 0


def test_exec_begins_to_count_anew(written: Process) -> None:
    written.fork()
    written.exec()
    assert (written.tlb_flushes, written.machine.tlb_flushes) == (0, 2)


def test_a_fork_that_copies_at_once_replaces_no_entry(written: Process) -> None:
    assert Eager().fork(written).child.tlb_flushes == 0
    assert written.tlb_flushes == written.machine.tlb_flushes == 1


# ---- calls ----


def test_unmapping_flushes_once_whatever_goes(written: Process) -> None:
    written.mmap(PAGE, Prot.READ, at=AT + SIZE)
    written.read(AT + SIZE)
    assert asked(written.machine, lambda: written.munmap(AT, 2 * SIZE)) == 1


def test_unmapping_what_is_not_there_flushes_nothing(written: Process) -> None:
    assert asked(written.machine, lambda: written.munmap(AT + FEW * PAGE, FEW * PAGE)) == 0
    assert asked(written.machine, lambda: written.munmap(AT + SIZE, SIZE)) == 0


def test_a_page_table_that_goes_is_flushed_though_it_is_empty(written: Process) -> None:
    """free_pgtables: pte_free_tlb, as CPUs may have the table itself in their caches."""
    written.madvise(AT, 2 * FEW * PAGE, Advice.DONTNEED)
    assert asked(written.machine, lambda: written.munmap(AT, 2 * FEW * PAGE)) == 1


def test_dontneed_flushes_once_what_was_there(written: Process) -> None:
    """madvise_batch_tlb_flush: one flush for several mappings."""
    written.mprotect(AT, PAGE, Prot.READ)
    assert asked(written.machine, lambda: written.madvise(AT, FEW * PAGE, Advice.DONTNEED)) == 1
    assert asked(written.machine, lambda: written.madvise(AT, FEW * PAGE, Advice.DONTNEED)) == 0


def test_dontneed_that_fails_half_way_flushes_what_it_did(written: Process) -> None:
    written.mlock(AT + PAGE, PAGE)

    def drop() -> None:
        with pytest.raises(BadFlags):
            written.madvise(AT, FEW * PAGE, Advice.DONTNEED)

    assert asked(written.machine, drop) == 1
    assert asked(written.machine, drop) == 0


def test_freeing_lazily_flushes_what_is_no_zero_page(written: Process) -> None:
    """madvise_free_pte_range: entries become clean."""
    written.read(AT, 2 * FEW * PAGE)
    assert asked(written.machine, lambda: written.madvise(AT, FEW * PAGE, Advice.FREE)) == 1
    rest = AT + FEW * PAGE
    assert asked(written.machine, lambda: written.madvise(rest, FEW * PAGE, Advice.FREE)) == 0


def test_advice_that_changes_no_entry_flushes_nothing(written: Process) -> None:
    for advice in (Advice.DONTFORK, Advice.WIPEONFORK, Advice.HUGEPAGE, Advice.POPULATE_WRITE):
        assert asked(written.machine, lambda advice=advice: written.madvise(AT, FEW * PAGE, advice)) == 0
    assert asked(written.machine, lambda: written.mlock(AT, FEW * PAGE)) == 0


def test_a_move_flushes_once_if_entries_move(written: Process) -> None:
    """move_page_tables, and tables that are left behind."""
    empty, to = AT + FEW * PAGE, AT + SIZE
    rest = empty + PAGE
    assert asked(written.machine, lambda: written.mremap(AT, PAGE, 2 * PAGE, to)) == 1
    assert asked(written.machine, lambda: written.mremap(empty, PAGE, PAGE, to + 2 * PAGE)) == 0
    assert asked(written.machine, lambda: written.mremap(rest, PAGE, PAGE, to + 2 * SIZE)) == 0
    assert asked(written.machine, lambda: written.mremap(to, 2 * PAGE, PAGE, to + SIZE)) == 1


def test_a_heap_that_shrinks_is_flushed(process: Process) -> None:
    start = process.brk()
    process.brk(start + FEW * PAGE)
    process.write(start)
    assert asked(process.machine, lambda: process.brk(start)) == 1


# ---- protection ----


@pytest.mark.parametrize(
    ("before", "after", "flushes"),
    [
        (Prot.RW, Prot.READ, 1),
        (Prot.RW, Prot.NONE, 1),
        (Prot.READ, Prot.RW, 1),  # x86 flushes for permission to write in both directions
        (Prot.READ, Prot.NONE, 1),
        (Prot.READ, READ_EXEC, 1),
        (Prot.NONE, Prot.RW, 0),  # what may not be touched is in no TLB
        (Prot.RW, Prot.RW, 0),
    ],
)
def test_a_protection_flushes_what_tlbs_may_hold(
    before: Prot, after: Prot, flushes: int, written: Process
) -> None:
    """pte_needs_flush."""
    written.mprotect(AT, FEW * PAGE, before)
    assert asked(written.machine, lambda: written.mprotect(AT, FEW * PAGE, after)) == flushes


def test_a_protection_of_what_is_not_there_flushes_nothing(written: Process) -> None:
    rest = AT + FEW * PAGE
    for prot in (Prot.READ, READ_EXEC, Prot.NONE):
        assert asked(written.machine, lambda prot=prot: written.mprotect(rest, FEW * PAGE, prot)) == 0


def test_pages_that_stay_write_protected_are_not_flushed(written: Process) -> None:
    """What fork shared may be written again by its mapping, not by its entries."""
    written.fork()
    assert asked(written.machine, lambda: written.mprotect(AT, FEW * PAGE, Prot.READ)) == 0
    assert asked(written.machine, lambda: written.mprotect(AT, FEW * PAGE, Prot.RW)) == 0


def test_one_call_flushes_once_for_all_its_mappings(written: Process) -> None:
    written.madvise(AT, PAGE, Advice.DONTFORK)
    assert asked(written.machine, lambda: written.mprotect(AT, FEW * PAGE, Prot.READ)) == 1


def test_a_protection_that_comes_upon_a_hole_flushes_what_it_did(written: Process) -> None:
    def protect() -> None:
        with pytest.raises(BadRange):
            written.mprotect(AT, SIZE, Prot.READ)

    assert asked(written.machine, protect) == 1


# ---- huge pages ----


def test_a_huge_page_is_made_and_reused_without_a_flush(huge: Process) -> None:
    assert huge.tlb_flushes == 0
    huge.fork().exit()
    assert asked(huge.machine, lambda: huge.write(AT)) == 0


def test_a_write_to_a_shared_huge_page_flushes_for_the_split_and_the_copy(huge: Process) -> None:
    """__split_huge_pmd, then wp_page_copy."""
    child = huge.fork()
    child.write(AT, 3 * PAGE)
    assert (child.space.splits, child.tlb_flushes) == (1, 1 + 3)


def test_a_hole_in_a_huge_page_flushes_for_the_split_and_what_goes(huge: Process) -> None:
    assert asked(huge.machine, lambda: huge.madvise(AT + PAGE, PAGE, Advice.DONTNEED)) == 2
    assert asked(huge.machine, lambda: huge.madvise(AT, SIZE, Advice.DONTFORK)) == 0


def test_a_huge_page_goes_with_one_flush(huge: Process) -> None:
    assert asked(huge.machine, lambda: huge.munmap(AT, SIZE)) == 1


def test_a_huge_page_moves_with_one_flush(huge: Process) -> None:
    assert asked(huge.machine, lambda: huge.mremap(AT, SIZE, SIZE, AT + 4 * SIZE)) == 1
    assert huge.space.splits == 0


def test_the_huge_zero_page_is_flushed_when_it_is_filled(huge: Process) -> None:
    """do_huge_zero_wp_pmd: pmdp_huge_clear_flush."""
    huge.read(AT + SIZE)
    assert huge.tlb_flushes == 0
    huge.write(AT + SIZE)
    assert huge.tlb_flushes == 1


def test_a_collapse_flushes_each_huge_page_that_it_makes(process: Process) -> None:
    """pmdp_collapse_flush."""
    process.mmap(2 * SIZE, at=AT)
    process.write(AT, 2 * SIZE)
    assert asked(process.machine, lambda: process.madvise(AT, 2 * SIZE, Advice.COLLAPSE)) == 2
    assert asked(process.machine, lambda: process.madvise(AT, 2 * SIZE, Advice.COLLAPSE)) == 0


# ---- the count ----


def test_the_machine_counts_all_processes_those_that_ended_too(written: Process) -> None:
    child = written.fork()
    child.write(AT, 2 * PAGE)
    assert written.machine.tlb_flushes == written.tlb_flushes + child.tlb_flushes == 3
    child.exit()
    written.exit()
    assert written.machine.tlb_flushes == 5
