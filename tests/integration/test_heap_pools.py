"""Detached allocator pools take frees, empty, and go back to their arenas without harm."""

from __future__ import annotations

import sys

import pytest

from tests.support import run_script

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="CPython 3.11 keeps its allocator's pools out of reach"
)

STRESS = """
import gc, random, sys
from clonal import _native
random.seed(7)
def objects(n):
    made = [bytes(random.randrange(1, 520)) for _ in range(n)]
    made += [[] for _ in range(n // 4)]
    random.shuffle(made)
    return made
old = objects({n})
del old[::2]
for round in range({rounds}):
    assert isinstance(_native.detach_pools(), tuple)
    new = objects({n})
    del new[::2]
    del old[: len(old) // 3]
    old += new
    random.shuffle(old)
    assert all(type(each) is bytes and not any(each[:8]) or each == [] for each in old)
del old, new
gc.collect()
{stats}
assert isinstance(_native.detach_pools(), tuple)
again = [[i] for i in range({n})]
assert sum(map(len, again)) == {n}
before = sys.getallocatedblocks()
del again
assert sys.getallocatedblocks() < before
"""


def test_objects_from_before_detaching_are_freed_and_their_pools_emptied() -> None:
    run_script(STRESS.format(n=40_000, rounds=4, stats=""))


def test_the_allocators_own_statistics_agree_after_detaching() -> None:
    result = run_script(STRESS.format(n=20_000, rounds=2, stats="sys._debugmallocstats()"))
    assert "arenas allocated current" in result.stderr


def test_the_debug_allocator_finds_nothing_wrong_after_detaching() -> None:
    run_script(STRESS.format(n=20_000, rounds=2, stats=""), env={"PYTHONMALLOC": "debug"})


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_millions_of_objects_of_all_size_classes_survive_twenty_detachments() -> None:
    run_script(STRESS.format(n=400_000, rounds=20, stats="sys._debugmallocstats()"), timeout=1100)


def test_another_allocator_is_reported_and_left_alone() -> None:
    run_script(
        """
        from clonal.image import heap
        report = heap.prepare()
        assert report.pools_detached == 0
        assert any("allocator pools not detached" in line for line in report.degraded), report
        """,
        env={"PYTHONMALLOC": "malloc"},
    )


def test_memory_of_twenty_freezes_stays_bounded() -> None:
    run_script(
        """
        import gc
        from clonal.image import heap
        def resident():
            with open("/proc/self/smaps_rollup") as file:
                return next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
        kept = [[i] for i in range(50000)]
        def work():
            return len([str(i) * 3 for i in range(50000)])
        work()
        heap.prepare()
        work(); heap.prepare()
        before = resident()
        for _ in range(20):
            work()
            heap.prepare()
        assert resident() - before < 20 * 1024, (before, resident())
        """
    )
