"""Whom the model's OOM killer takes, and its score against the real kernel's."""

from __future__ import annotations

import subprocess
import sys

import pytest

from clonal.kernel import procfs
from clonal.model import PAGE, Clone, Config, Machine, Map, Prot, oom

MB = 1 << 20


@pytest.fixture
def machine() -> Machine:
    return Machine(Config(ram=1024 * MB))


def test_sharing_does_not_protect(machine: Machine) -> None:
    """oom_badness counts resident pages, not shares of them: every clone has its template's points."""
    template = machine.spawn()
    heap = template.mmap(100 * MB, at=1 << 30)
    template.write(heap, 100 * MB)
    clone = template.fork()
    assert oom.points_of(clone) == oom.points_of(template) == 100 * MB // PAGE + 52


def test_the_largest_is_taken_and_all_its_frames_come_back(machine: Machine) -> None:
    small, large = machine.spawn(), machine.spawn()
    for process, size in ((small, 10), (large, 20)):
        process.write(process.mmap(size * MB), size * MB)
    assert machine.kill_for_memory() is large
    assert large.exit_code == -9
    assert machine.frames.used == 10 * MB // PAGE
    assert machine.kill_for_memory() is small
    assert machine.kill_for_memory() is None


def test_an_adjustment_outweighs_memory_and_is_inherited(machine: Machine) -> None:
    """A thousandth of all memory for each point."""
    template = machine.spawn()
    heap = template.mmap(50 * MB)
    template.write(heap, 50 * MB)
    clone = template.fork()
    clone.oom_score_adj = 100
    assert clone.fork().oom_score_adj == 100
    machine.kill_for_memory()
    machine.kill_for_memory()
    assert [process for process in machine.processes.values() if process.exit_code is None] == [template]


def test_minus_one_thousand_is_immune(machine: Machine) -> None:
    process = machine.spawn()
    process.write(process.mmap(10 * MB), 10 * MB)
    process.oom_score_adj = -1000
    assert machine.kill_for_memory() is None


def test_a_vfork_child_is_spared_but_ends_with_the_memory_that_it_borrows(machine: Machine) -> None:
    """in_vfork; __oom_kill_process ends all that share the mm."""
    parent = machine.spawn()
    parent.write(parent.mmap(10 * MB), 10 * MB)
    child = parent.vfork()
    assert machine.kill_for_memory() is parent
    assert child.exit_code == -9


def test_the_immune_live_on_with_the_memory_of_a_victim(machine: Machine) -> None:
    """__oom_kill_process: it is not freed then."""
    process = machine.spawn()
    process.write(process.mmap(10 * MB), 10 * MB)
    sharer = process.clone3(Clone.VM)
    sharer.oom_score_adj = -1000
    assert machine.kill_for_memory() is process
    assert sharer.exit_code is None and machine.frames.used == 10 * MB // PAGE


def test_swap_is_memory_of_which_an_adjustment_is_a_share() -> None:
    machine = Machine(Config(ram=1024 * MB, swap=1024 * MB))
    small, large = machine.spawn(), machine.spawn()
    for process, size in ((small, 10), (large, 160)):
        process.write(process.mmap(size * MB), size * MB)
    small.oom_score_adj = 100
    assert machine.kill_for_memory() is small


def test_points_are_pages_and_whole_thousandths_of_all_memory() -> None:
    assert oom.badness(10, 5, 2 * PAGE, 0, 1999) == 17
    assert oom.badness(10, 5, 2 * PAGE, 7, 1999) == 24
    assert oom.badness(10, 5, 2 * PAGE, -1000, 1999) is None


@pytest.mark.parametrize(
    ("points", "shown"), [(None, 0), (0, 666), (10**6, 1333), (-(10**6), 0), (2999, 668), (-2999, 665)]
)
def test_the_score_is_two_thirds_of_thousandths_and_a_thousand(points: int | None, shown: int) -> None:
    """proc_oom_score: in C, where division rounds towards zero."""
    assert oom.score(points, 10**6) == shown


def test_shared_memory_counts_too(machine: Machine) -> None:
    process = machine.spawn()
    area = process.mmap(10 * MB, Prot.RW, Map.SHARED | Map.ANONYMOUS, at=1 << 30)
    process.write(area, 10 * MB)
    assert oom.points_of(process) == 10 * MB // PAGE + 5 + 2


CHILD = """
import mmap, sys
size, adjustment = map(int, sys.argv[1:])
area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area[::4096] = b"x" * (size // 4096)
with open("/proc/self/oom_score_adj", "w") as file:
    file.write(str(adjustment))
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("adjustment", [0, 100, 1000])
def test_the_score_is_the_real_kernels(adjustment: int) -> None:
    """Within a point: the kernel's own counters of resident pages lag (mm->rss_stat)."""
    command = [sys.executable, "-c", CHILD, str(300 * MB), str(adjustment)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None and child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        status = procfs.status(child.pid)
        total = sum(total_of(name) for name in ("MemTotal", "SwapTotal")) // PAGE
        resident, swapped = (status.size(name) // PAGE for name in ("VmRSS", "VmSwap"))
        points = oom.badness(resident, swapped, status.size("VmPTE"), adjustment, total)
        with open(f"/proc/{child.pid}/oom_score") as file:
            assert abs(oom.score(points, total) - int(file.read())) <= 1
        child.stdin.close()


def total_of(name: str) -> int:
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(name))
