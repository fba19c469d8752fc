"""What the model does not do: each line of docs/model.md has a test here that says so."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest

from clonal.model import (
    HUGE,
    PAGE,
    Advice,
    BadFlags,
    BadMachine,
    BadPolicy,
    BadRange,
    Clone,
    Config,
    File,
    Kind,
    Machine,
    Map,
    Mode,
    OutOfFrames,
    Process,
    Prot,
    Unmodelled,
    WouldBlock,
)
from clonal.model.strategies import Vfork
from tests.support import ROOT

AT = 1 << 40  # aligned to 2 MiB
SIZE = HUGE * PAGE
ANONYMOUS = Map.PRIVATE | Map.ANONYMOUS
TABLES = 3  # of memory within 2 MiB
PAGE_OF_DOCS = (ROOT / "docs" / "model.md").read_text("utf-8")


@pytest.fixture
def process() -> Process:
    return Machine().spawn()


@pytest.fixture
def small() -> Process:
    """Of a machine of 100 frames."""
    return Machine(Config(ram=100 * PAGE, overcommit=1)).spawn()


@pytest.fixture
def two() -> Machine:
    """Of two nodes."""
    return Machine(Config(ram=2000 * PAGE, nodes=2, overcommit=1))


def nodes_of(process: Process, address: int, pages: int) -> list[int]:
    frames = process.pages(address, pages * PAGE).frame.astype(np.intp)
    return process.machine.frames.banks.node_of(frames).tolist()


# ---- the document ----


def test_every_line_of_the_table_names_a_test_and_every_test_is_named() -> None:
    table = PAGE_OF_DOCS.split("## What the model does not do")[1]
    lines = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith("| ---")][
        1:
    ]
    named = [re.findall(r"`(test_\w+)` \|$", line) for line in lines]
    assert all(len(names) == 1 for names in named)
    here = vars(sys.modules[__name__])
    limits = [name for name in here if name.startswith("test_")][2:]
    assert sorted(name for names in named for name in names) == sorted(limits)
    assert len(lines) >= 30


def test_the_examples_run_and_print_what_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = re.findall(r"```python\n(.*?)```", PAGE_OF_DOCS, re.DOTALL)
    exec(compile(first, "docs/model.md", "exec"), {})
    promised = re.findall(r"^print.*  # ([\d ]+)", first, re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == [line.strip() for line in promised]
    exec(compile(second, "docs/model.md", "exec"), {})
    assert capsys.readouterr().out


# ---- when memory runs short ----


def test_nothing_is_swapped_out() -> None:
    process = Machine(Config(ram=100 * PAGE, swap=1 << 30)).spawn()
    heap = process.mmap(200 * PAGE)
    with pytest.raises(OutOfFrames):
        process.write(heap, 200 * PAGE)


def test_page_cache_is_never_reclaimed(small: Process) -> None:
    small.machine.file(60)
    with pytest.raises(OutOfFrames):
        small.write(small.mmap(50 * PAGE), 50 * PAGE)


def test_pages_freed_lazily_are_never_taken(small: Process) -> None:
    heap = small.mmap(60 * PAGE)
    small.write(heap, 60 * PAGE)
    small.madvise(heap, 60 * PAGE, Advice.FREE)
    with pytest.raises(OutOfFrames):
        small.write(small.mmap(50 * PAGE, at=AT), 50 * PAGE)
    assert small.rss.anon == 60


def test_madv_free_of_huge_pages_is_refused(process: Process) -> None:
    process.mmap(SIZE, at=AT)
    process.madvise(AT, SIZE, Advice.HUGEPAGE)
    process.write(AT)
    with pytest.raises(Unmodelled):
        process.madvise(AT, SIZE, Advice.FREE)


def test_running_out_kills_nobody_by_itself(small: Process) -> None:
    other = small.machine.spawn()
    other.write(other.mmap(60 * PAGE), 60 * PAGE)
    with pytest.raises(OutOfFrames):
        small.write(small.mmap(50 * PAGE), 50 * PAGE)
    assert other.exit_code is None
    assert small.machine.kill_for_memory() is other


def test_of_the_kernels_own_memory_only_page_tables_count(small: Process) -> None:
    group = small.group = small.machine.group("group")
    for _ in range(50):
        small.machine.spawn().mmap(PAGE)
    assert small.machine.frames.free == 100 and small.machine.usage(group) == 0
    small.read(small.mmap(PAGE, at=AT))
    assert small.machine.frames.free == 100 - TABLES and small.machine.usage(group) == TABLES


def test_page_tables_are_charged_where_their_process_is(process: Process) -> None:
    first, second = process.machine.group("first"), process.machine.group("second")
    process.group = first
    process.write(process.mmap(PAGE, at=AT))
    process.fork().group = second
    assert (process.machine.usage(first), process.machine.usage(second)) == (1 + TABLES, TABLES)


# ---- files ----


def test_nothing_is_written_back(process: Process) -> None:
    file = process.machine.file(1)
    process.write(process.mmap(PAGE, Prot.RW, Map.SHARED, file))
    assert not [name for name in vars(File) if "write" in name or "dirty" in name or "sync" in name]


def test_mappings_over_a_files_end_are_refused(process: Process) -> None:
    file = process.machine.memfd(8)
    with pytest.raises(BadRange):
        process.mmap(9 * PAGE, Prot.RW, Map.PRIVATE, file)
    area = process.mmap(8 * PAGE, Prot.RW, Map.PRIVATE, file)
    shared = process.mmap(8 * PAGE, Prot.RW, Map.SHARED | Map.ANONYMOUS)
    for address in (area, shared):
        with pytest.raises(Unmodelled):
            process.mremap(address, 8 * PAGE, 9 * PAGE, at=AT)


def test_files_keep_their_length(process: Process) -> None:
    file = process.machine.memfd(8)
    with pytest.raises(AttributeError):
        file.pages = 9  # type: ignore[misc]


# ---- processes ----


def test_there_are_no_threads(process: Process) -> None:
    thread = 0x10000
    with pytest.raises(BadFlags):
        process.clone3(Clone(Clone.VM | thread))
    other = process.clone3(Clone.VM)
    assert other.pid != process.pid and other.space is process.space


def test_the_caller_of_vfork_is_not_stopped(process: Process) -> None:
    heap = process.mmap(PAGE)
    process.vfork()
    assert process.write(heap).minor == 1
    strategy, parent = Vfork(), process.machine.spawn()
    strategy.fork(parent)
    with pytest.raises(WouldBlock):
        strategy.fork(parent)


# ---- sizes of pages ----


def test_small_pages_stay_small_by_themselves() -> None:
    process = Machine(Config(thp="always")).spawn()
    process.mmap(SIZE, at=AT)
    process.madvise(AT, SIZE, Advice.NOHUGEPAGE)
    process.write(AT, SIZE)
    process.madvise(AT, SIZE, Advice.HUGEPAGE)
    process.read(AT, SIZE)
    assert not process.pages(AT, SIZE).huge.any()
    process.madvise(AT, SIZE, Advice.COLLAPSE)
    assert process.pages(AT, SIZE).huge.all()


def test_there_are_two_sizes_of_pages(process: Process) -> None:
    heap = process.mmap(64 * PAGE)
    assert process.write(heap).zeroed == 1
    text = process.mmap(64 * PAGE, Prot.READ, Map.PRIVATE, process.machine.file(64), at=AT)
    assert process.read(text).mapped == 16


def test_files_and_shared_memory_have_no_huge_pages() -> None:
    process = Machine(Config(thp="always")).spawn()
    for flags, kind in ((Map.PRIVATE, Kind.FILE), (Map.SHARED, Kind.SHMEM)):
        file = File(process.machine.frames, HUGE, kind, cached=True)
        process.mmap(SIZE, Prot.RW, flags, file, at=AT)
        process.write(AT, SIZE)
        assert not process.pages(AT, SIZE).huge.any()
        with pytest.raises(Unmodelled):
            process.madvise(AT, SIZE, Advice.COLLAPSE)
        process.munmap(AT, SIZE)


def test_hugetlb_is_refused(process: Process) -> None:
    hugetlb = 0x40000
    with pytest.raises(BadFlags):
        process.mmap(SIZE, flags=Map(ANONYMOUS | hugetlb))


def test_large_mappings_are_not_aligned() -> None:
    process = Machine(Config(thp="always")).spawn()
    process.mmap(PAGE)
    assert process.mmap(2 * SIZE, Prot.READ) % SIZE


# ---- calls ----


@pytest.mark.parametrize("mergeable", [12])
def test_equal_pages_are_not_merged(process: Process, mergeable: int) -> None:
    heap = process.mmap(2 * PAGE)
    process.write(heap, 2 * PAGE)
    with pytest.raises(BadFlags):
        process.madvise(heap, PAGE, mergeable)  # type: ignore[arg-type]
    assert len(set(process.pages(heap, 2 * PAGE).frame.tolist())) == 2


def test_unknown_advice_is_refused(process: Process) -> None:
    heap = process.mmap(PAGE)
    for number in set(range(105)) - set(map(int, Advice)):
        with pytest.raises(BadFlags):
            process.madvise(heap, PAGE, number)  # type: ignore[arg-type]


def test_unknown_flags_of_mappings_are_refused(process: Process) -> None:
    fixed, grows_down, locked = 0x10, 0x100, 0x2000
    for flag in (fixed, grows_down, locked):
        with pytest.raises(BadFlags):
            process.mmap(PAGE, flags=Map(ANONYMOUS | flag))
    with pytest.raises(BadFlags):
        process.mmap(PAGE, Prot(Prot.RW | 8))
    heap = process.mmap(PAGE, at=AT)
    with pytest.raises(BadRange):
        process.mmap(PAGE, at=heap)


def test_nobody_handles_faults_but_the_kernel(process: Process) -> None:
    for word in ("userfaultfd", "soft_dirty", "pkey"):
        assert not [name for name in dir(process) + dir(process.machine) if word in name]


def test_mremap_moves_one_mapping(process: Process) -> None:
    process.mmap(PAGE, at=AT)
    process.mmap(PAGE, Prot.READ, at=AT + PAGE)
    with pytest.raises(BadRange):
        process.mremap(AT, 2 * PAGE, 2 * PAGE, at=AT + SIZE)
    with pytest.raises(BadRange):
        process.mremap(AT, PAGE, PAGE, at=AT)


def test_mappings_and_locks_are_not_limited(process: Process) -> None:
    for number in range(300):
        process.mmap(PAGE, at=AT + 2 * number * PAGE)
    assert len(process.space.vmas) == 300
    large = process.mmap(64 << 20)
    assert process.mlock(large, 64 << 20).zeroed == (64 << 20) // PAGE


@pytest.mark.parametrize("cpus", [1, 64])
def test_flushes_are_not_counted_by_cpu(cpus: int) -> None:
    """All CPUs run the same address space."""
    process = Machine(Config(cpus_per_node=cpus)).spawn()
    process.write(process.mmap(PAGE, at=AT))
    for cpu in range(cpus):
        process.clone3(Clone.VM).cpu = cpu
    process.fork()
    process.munmap(AT, PAGE)
    assert process.tlb_flushes == 2


def test_a_call_flushes_once_however_much_goes(process: Process) -> None:
    for call in (process.munmap, lambda start, length: process.mremap(start, length, length, 2 * AT)):
        process.write(process.mmap(64 << 20, at=AT), 64 << 20)
        before = process.tlb_flushes
        call(AT, 64 << 20)
        assert process.tlb_flushes == before + 1


def test_pages_freed_lazily_again_are_flushed_again(process: Process) -> None:
    process.write(process.mmap(PAGE, at=AT))
    process.madvise(AT, PAGE, Advice.FREE)
    process.madvise(AT, PAGE, Advice.FREE)
    assert process.tlb_flushes == 2


def test_nothing_takes_time(process: Process) -> None:
    counts = *process.write(process.mmap(PAGE)), *process.fork_work
    assert all(isinstance(each, int) for each in counts)


# ---- nodes ----


def test_pages_stay_on_their_node(two: Machine) -> None:
    process = two.spawn(cpu=0)
    process.write(process.mmap(8 * PAGE, at=AT), 8 * PAGE)
    process.cpu = 2
    for _ in range(10):
        process.read(AT, 8 * PAGE)
    assert process.node_pages == (8, 0)


def test_mbind_moves_nothing(two: Machine) -> None:
    process = two.spawn(cpu=0)
    process.mmap(8 * PAGE, at=AT)
    process.write(AT, 4 * PAGE)
    process.mbind(AT, 8 * PAGE, Mode.BIND, (1,))
    process.write(AT, 8 * PAGE)
    assert nodes_of(process, AT, 8) == [0] * 4 + [1] * 4


@pytest.mark.parametrize("mode", [5, 6, 2 | 1 << 15])
def test_unknown_policies_are_refused(two: Machine, mode: int) -> None:
    process = two.spawn()
    with pytest.raises(BadPolicy):
        process.set_mempolicy(mode, (0, 1))  # type: ignore[arg-type]


def test_page_cache_is_spread_by_offset(two: Machine) -> None:
    process = two.spawn()
    process.set_mempolicy(Mode.INTERLEAVE, (0, 1))
    file = two.memfd(4)
    process.mmap(4 * PAGE, Prot.RW, Map.SHARED, file, at=AT)
    for page in (0, 2, 1, 3):
        process.write(AT + page * PAGE)
    assert nodes_of(process, AT, 4) == [0, 1, 0, 1]


def test_a_moved_mapping_interleaves_by_its_new_address(two: Machine) -> None:
    process = two.spawn()
    process.set_mempolicy(Mode.INTERLEAVE, (0, 1))
    process.mmap(2 * PAGE, at=AT)
    process.mremap(AT, 2 * PAGE, 2 * PAGE, at=AT + SIZE + PAGE)
    process.write(AT + SIZE + PAGE, 2 * PAGE)
    assert nodes_of(process, AT + SIZE + PAGE, 2) == [1, 0]


def test_page_tables_are_on_no_node(two: Machine) -> None:
    process = two.spawn()
    process.read(process.mmap(PAGE, at=AT))
    assert process.page_table_bytes and two.frames.banks.left == [1000, 1000]


# ---- machines ----


def test_addresses_end_at_47_bits(process: Process) -> None:
    with pytest.raises(BadRange):
        process.mmap(PAGE, at=1 << 47)


def test_older_kernels_are_refused() -> None:
    with pytest.raises(BadMachine):
        Config(kernel=(6, 11))
