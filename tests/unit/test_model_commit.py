"""What counts as committed, and when the model's kernel promises no more (Linux 6.18)."""

from __future__ import annotations

import pytest

from clonal.model import PAGE, Advice, BadMachine, CommitRefused, Config, Machine, Map, Prot

MB = 1 << 20
SHARED = Map.SHARED | Map.ANONYMOUS
SPARED = Map.PRIVATE | Map.ANONYMOUS | Map.NORESERVE


def machine(mode: int, ram: int = 1024 * MB, **more: int) -> Machine:
    """Without reserves, unless given."""
    return Machine(Config(ram=ram, overcommit=mode, **{"admin_reserve": 0, "user_reserve": 0} | more))


def test_shared_anonymous_memory_counts_once_and_memory_files_as_they_grow() -> None:
    """shmem_acct_size, shmem_inode_acct_blocks."""
    model = machine(0)
    process = model.spawn()
    process.mmap(10 * PAGE, Prot.RW, SHARED)
    process.fork()
    assert model.committed == 10
    file = model.memfd(8)
    area = process.mmap(8 * PAGE, Prot.RW, Map.SHARED, file)
    assert model.committed == 10
    process.write(area, 3 * PAGE)
    assert model.committed == 13


def test_a_mapping_made_readable_only_stays_committed_once_it_was_written() -> None:
    """mprotect_fixup."""
    process = machine(0).spawn()
    heap = process.mmap(10 * PAGE)
    process.mprotect(heap, 10 * PAGE, Prot.READ)
    assert process.machine.committed == 0
    process.mprotect(heap, 10 * PAGE, Prot.RW)
    process.write(heap)
    process.mprotect(heap, 10 * PAGE, Prot.READ)
    assert process.machine.committed == 10


def test_mode_0_refuses_only_a_single_request_that_could_never_fit() -> None:
    process = machine(0, ram=100 * MB, swap=50 * MB).spawn()
    for _ in range(3):
        process.mmap(150 * MB, Prot.RW)
    with pytest.raises(CommitRefused) as caught:
        process.mmap(150 * MB + PAGE, Prot.RW | Prot.EXEC)
    assert caught.value.pages == 150 * MB // PAGE + 1
    assert len(process.space.vmas) == 1


def test_mode_0_may_refuse_a_fork_of_mappings_that_each_were_granted() -> None:
    """They became one, and dup_mmap charges it as one."""
    process = machine(0, ram=100 * MB).spawn()
    for _ in range(2):
        process.mmap(60 * MB)
    with pytest.raises(CommitRefused):
        process.fork()
    assert len(process.machine.processes) == 1


def test_mode_0_asks_mapping_by_mapping_at_fork() -> None:
    process = machine(0, ram=100 * MB).spawn()
    process.mmap(60 * MB)
    process.mmap(60 * MB, Prot.RW | Prot.EXEC)
    process.fork()


def test_mode_2_adds_up_the_mappings_of_a_fork() -> None:
    process = machine(2, ram=100 * MB).spawn()
    process.mmap(13 * MB)
    process.mmap(13 * MB, Prot.RW | Prot.EXEC)
    with pytest.raises(CommitRefused):
        process.fork()


def test_what_comes_empty_to_the_child_is_charged_and_what_is_borrowed_is_not() -> None:
    """dup_mmap charges VM_WIPEONFORK as any other; vfork duplicates nothing."""
    process = machine(2, ram=100 * MB).spawn()
    heap = process.mmap(30 * MB)
    process.madvise(heap, 30 * MB, Advice.WIPEONFORK)
    with pytest.raises(CommitRefused):
        process.fork()
    process.vfork()
    assert process.machine.committed == 30 * MB // PAGE


def test_what_grows_by_a_move_or_becomes_writable_is_asked_for() -> None:
    """mm/mremap.c vrm_charge, mprotect_fixup."""
    process = machine(2, ram=100 * MB).spawn()
    heap = process.mmap(10 * MB, at=1 << 30)
    with pytest.raises(CommitRefused):
        process.mremap(heap, 10 * MB, 45 * MB, at=1 << 40)
    text = process.mmap(45 * MB, Prot.READ)
    with pytest.raises(CommitRefused):
        process.mprotect(text, 45 * MB, Prot.RW)


def test_mode_1_refuses_nothing() -> None:
    process = machine(1, ram=10 * MB).spawn()
    process.mmap(1000 * MB)
    process.fork()
    assert process.machine.committed == 2 * 1000 * MB // PAGE


def test_mode_2_accepts_while_less_than_the_limit_is_committed() -> None:
    """RAM × ratio + swap; the last page is not given."""
    process = machine(2, ram=100 * MB, swap=10 * MB, overcommit_ratio=60).spawn()
    process.mmap(70 * MB - PAGE)
    with pytest.raises(CommitRefused) as caught:
        process.mmap(PAGE, Prot.RW | Prot.EXEC)
    assert caught.value.limit == 70 * MB // PAGE


def test_mode_2_refuses_a_fork_for_which_nothing_is_left_and_ignores_noreserve() -> None:
    process = machine(2, ram=100 * MB).spawn()
    heap = process.mmap(30 * MB, flags=SPARED)
    assert process.machine.committed == 30 * MB // PAGE
    with pytest.raises(CommitRefused):
        process.fork()
    process.madvise(heap, 30 * MB, Advice.DONTFORK)
    process.fork()


def test_mode_2_keeps_its_reserves() -> None:
    def most(**more: int) -> int:
        process = machine(2, ram=100 * MB, **more).spawn()
        granted = 0
        while True:
            try:
                process.mmap(MB)
            except CommitRefused:
                return granted
            granted += 1

    assert most() == 49
    assert most(admin_reserve=8 * MB) == 41
    assert most(admin_reserve=8 * MB, admin=True) == 49
    assert most(user_reserve=128 * MB) == 48  # 1/32 of what the process has mapped


@pytest.mark.parametrize("bad", [{"overcommit": 3}, {"swap": -1}, {"overcommit_ratio": -1}])
def test_impossible_settings_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(BadMachine):
        Config(**bad)
