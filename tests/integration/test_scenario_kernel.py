"""Scenarios on the real kernel: what it is known to do, seen through puppets; and nothing is left."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from clonal.kernel import procfs
from clonal.scenario import KernelRunner, Observation, PuppetLost, ScenarioError, parse
from clonal.scenario.puppet import Op, Stage
from tests.support import run_script


@pytest.fixture
def kernel() -> Iterator[KernelRunner]:
    with KernelRunner() as runner:
        yield runner


def play(kernel: KernelRunner, text: str) -> list[Observation]:
    return list(kernel.play(parse(text)))


def kinds(seen: Observation, process: str, region: str) -> str:
    return "".join(".ZFA?"[kind] for kind in seen.processes[process].regions[region].kind)


def test_reading_untouched_memory_maps_the_zero_page(kernel: KernelRunner) -> None:
    seen = play(kernel, "p: map a anon 4\np: read a 0-1\np: write a 1-2")
    assert [kinds(each, "p", "a") for each in seen] == ["....", "ZZ..", "ZAA."]
    assert [each.outcome.minor for each in seen] == [0, 2, 2]
    assert [each.processes["p"].rss.anon for each in seen] == [0, 0, 2]


def test_a_child_copies_what_it_writes_and_the_last_sharer_reuses(kernel: KernelRunner) -> None:
    *_, before, copied, reused = play(
        kernel, "p: map a anon 4\np: write a 0-3\np: fork c\nc: write a 1\np: write a 1"
    )
    pages = [each.processes["p"].regions["a"] for each in (before, copied, reused)]
    assert not pages[0].alone.any()
    assert list(pages[1].alone) == list(pages[2].alone) == [False, True, False, False]
    assert copied.outcome.minor == reused.outcome.minor == 1
    if kernel.frames_shown:
        child = copied.processes["c"].regions["a"].frame
        assert list(child == pages[1].frame) == [True, False, True, True]
        assert np.array_equal(pages[1].frame, pages[2].frame)


def test_a_puppet_s_own_memory_is_left_out(kernel: KernelRunner) -> None:
    text = "p: map a anon 4\np: fork c\nc: fork d\nd: exec\nd: map b shared 4\nd: write b 0-3\nd: fork e"
    *_, seen = play(kernel, text)
    assert {name: view.rss for name, view in seen.processes.items()} == {
        "p": (0, 0, 0),
        "c": (0, 0, 0),
        "d": (0, 0, 4),
        "e": (0, 0, 0),
    }
    assert [view.page_tables for view in seen.processes.values()] == [0, 0, 3 * procfs.PAGE, 0]
    assert [view.charged for view in seen.processes.values()] == [4, 4, 0, 0]


def test_a_huge_page_is_zero_filled_by_one_fault(kernel: KernelRunner) -> None:
    if "never" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text().split("[")[1].split("]")[0]:
        pytest.skip("this kernel has huge pages switched off")
    zero, written = play(kernel, "p: map a thp 1024\np: read a 0\np: write a 512")[1:]
    assert kinds(zero, "p", "a") == "Z" * 512 + "." * 512
    assert kinds(written, "p", "a") == "Z" * 512 + "A" * 512
    assert written.processes["p"].regions["a"].huge.all()


def test_an_image_is_read_from_the_page_cache_and_copied_when_written(kernel: KernelRunner) -> None:
    seen = play(kernel, "p: map a memfd-image 32\np: read a 0\np: write a 0\np: write a 20")
    assert [kinds(each, "p", "a").rstrip(".") for each in seen] == [
        "",
        "F" * 16,
        "A" + "F" * 15,
        "A" + "F" * 15 + "....A",
    ]


def test_a_process_dies_of_an_access_that_is_refused(kernel: KernelRunner) -> None:
    text = "p: map a guard 4\np: fork c\nc: read a 0\nc: read a 1\np: wait c"
    *_, killed, dead, reaped = play(kernel, text)
    assert (killed.outcome.result, dead.outcome.result) == ("SIGSEGV", "dead")
    assert reaped.outcome.result == "ok" and set(reaped.processes) == {"p"}


def test_vfork_shares_memory_and_the_parent_sleeps(kernel: KernelRunner) -> None:
    text = "p: map a anon 4\np: vfork c\nc: write a 0\nc: exec\np: write a 1\nc: exit\np: wait c"
    seen = play(kernel, text)
    assert kinds(seen[2], "p", "a") == kinds(seen[2], "c", "a") == "A..."
    assert seen[3].processes["c"].regions == {}
    assert kinds(seen[-1], "p", "a") == "AA.."


def test_errors_of_the_kernel_are_outcomes(kernel: KernelRunner) -> None:
    text = "p: map a anon 4\np: mlock a 0\np: madvise a 0 dontneed\np: munlock a 0\np: madvise a 0 dontneed"
    assert [each.outcome.result for each in play(kernel, text)] == ["ok", "ok", "EINVAL", "ok", "ok"]


def test_waiting_for_a_living_child_is_refused(kernel: KernelRunner) -> None:
    with pytest.raises(ScenarioError, match="write c: exit"):
        play(kernel, "p: fork c\np: wait c")
    assert kinds(play(kernel, "p: map a anon 1\np: write a 0")[-1], "p", "a") == "A"


def test_a_puppet_that_is_killed_is_told_and_the_runner_still_closes(kernel: KernelRunner) -> None:
    play(kernel, "p: map a anon 4\np: fork c")
    os.kill(kernel.pid("c"), signal.SIGKILL)
    with pytest.raises(PuppetLost):
        for step in parse("c: map b anon 1\nc: write b 0"):
            kernel.run(step)


def test_many_ranges_take_more_than_one_message() -> None:
    with Stage() as stage:
        puppet = stage.spawn()
        assert puppet.call(Op.MMAP, 1 << 45, 1000 << 12, 3, 0x100022, -1, 0).result == 1 << 45
        assert puppet.touch(Op.WRITE, 1 << 45, [(n, 1) for n in range(0, 1000, 2)]).minor == 500
        puppet.kill()
        stage.reap()


RUNS = """
import os, signal
from clonal.scenario import KernelRunner, parse
kernel = KernelRunner()
text = "p: map a anon 4\\np: fork c\\nc: fork d\\nc: exit\\nd: vfork e"
*_, seen = kernel.play(parse(text))
print(*[kernel.pid(name) for name in "pde"], kernel._stage.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_puppets_die_with_their_runner() -> None:
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(RUNS)], stdout=subprocess.PIPE, check=False)
    assert run.returncode == -signal.SIGKILL
    pids = [int(word) for word in run.stdout.split()]
    assert len(pids) == 4
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        with os.fdopen(pidfd) as handle:
            assert select.select([handle], [], [], 10)[0], f"puppet {pid} lives"


AS_ANYBODY = """
from clonal.scenario import KernelRunner, Tally, compare, parse
scenario = parse('''
p: map a anon 16
p: map i memfd-image 32
p: read a 0-7
p: write a 4-11
p: read i 0
p: write i 3
p: fork c
c: write a 4
p: write a 4
c: exit
p: wait c
''')
tally = Tally()
with KernelRunner() as one, KernelRunner() as other:
    *_, last = one.play(scenario)
    assert [int(kind) for kind in last.processes["p"].regions["a"].kind] == [1] * 4 + [3] * 8 + [0] * 4
    assert (found := compare(scenario, one, other, tally)) == [], [*map(str, found)]
    assert bool(tally.compared["pages: frame"]) == one.frames_shown
    print(one.frames_shown, tally.compared["pages: kind"], tally.compared["pages: mapped once"])
"""


def test_without_privilege_everything_but_frames_is_seen(user: str | None) -> None:
    shown, kinds_compared, bits = run_script(AS_ANYBODY, user=user).stdout.split()
    assert int(kinds_compared) > 500 and int(bits) > 100
    if user is not None:
        assert shown == "False"
