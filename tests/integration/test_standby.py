"""Standby clones: forked ahead, their always-written pages copied ahead."""

from __future__ import annotations

import os
import signal
import statistics
import time
from pathlib import Path

import pytest

import clonal
from clonal.kernel import procfs
from tests import clone_work as work
from tests.support import run_script


def _wait_ready(template: clonal.Template, count: int) -> None:
    assert work.until(lambda: template.stats().standby_ready == count, 15), template.stats()


def _standby_pids(template: clonal.Template) -> list[int]:
    children = Path(f"/proc/{template.pid}/task/{template.pid}/children")
    return [int(pid) for pid in children.read_text().split()]


def test_orders_are_handed_to_standby_clones_and_those_replaced() -> None:
    with clonal.Template(standby=2) as template:
        _wait_ready(template, 2)
        ready = _standby_pids(template)
        first, second = (template.clone(work.add, i) for i in range(2))
        assert [first.result(), second.result()] == [1, 2]
        assert {first.pid, second.pid} == set(ready)
        _wait_ready(template, 2)
        assert template.stats().standby_used == 2


def test_more_orders_than_standby_clones_are_served_on_demand() -> None:
    with clonal.Template(standby=1) as template:
        _wait_ready(template, 1)
        assert sorted(clone.result() for clone in [template.clone(work.add, i) for i in range(6)]) == [
            1, 2, 3, 4, 5, 6,
        ]  # fmt: skip


def test_a_standby_clone_is_fresh_and_draws_its_own_numbers() -> None:
    with clonal.Template(["tests.clone_work"], "tests.clone_work:warm", standby=1) as template:
        drawn = set()
        for _ in range(5):
            _wait_ready(template, 1)
            assert template.clone(work.append_state, "x").result() == ["warm", "x"]
            _wait_ready(template, 1)
            drawn.add(template.clone(work.draw).result())
        assert len(drawn) == 5


def test_options_hold_for_standby_clones(tmp_path: Path) -> None:
    with clonal.Template(standby=1) as template:
        _wait_ready(template, 1)
        chosen = template.options(env={"CLONAL_X": "y"}, cwd=tmp_path, capture=True)
        assert chosen.clone(work.surroundings, "CLONAL_X").result() == ("y", str(tmp_path))
        _wait_ready(template, 1)
        with pytest.raises(clonal.CloneTimeout):
            template.options(timeout=0.05).clone(work.wait_for_ever).result()
        _wait_ready(template, 1)
        with template.clone(work.wait_for_ever) as clone:
            clone.kill()
            assert clone.wait() == -signal.SIGKILL


def test_a_standby_clone_that_is_killed_is_replaced() -> None:
    with clonal.Template(standby=2) as template:
        _wait_ready(template, 2)
        victim, survivor = _standby_pids(template)
        os.kill(victim, signal.SIGKILL)
        assert work.until(lambda: len(set(_standby_pids(template)) - {victim}) == 2, 15)
        assert survivor in _standby_pids(template)
        assert template.clone(work.add, 1).result() == 2


def test_a_hook_that_fails_in_a_standby_clone_is_its_result() -> None:
    with clonal.Template(setup=work.register_failing_hook, standby=1) as template:
        _wait_ready(template, 1)
        with pytest.raises(ConnectionError, match="no database"):
            template.clone(work.add, 1).result()


def test_standby_clones_end_with_their_template() -> None:
    with clonal.Template(standby=2) as template:
        _wait_ready(template, 2)
        pidfds = [os.pidfd_open(pid) for pid in _standby_pids(template)]
    for pidfd in pidfds:
        assert work.ends(pidfd)
        os.close(pidfd)


def test_always_written_pages_are_learnt_and_copied_ahead() -> None:
    """A clone that writes 200 pages of the template's heap takes no fault for them in a standby clone."""
    with clonal.Template(["tests.clone_work"], "tests.clone_work:warm_pages", standby=1) as template:
        faults = []
        for _ in range(8):
            _wait_ready(template, 1)
            clone = template.clone(work.write_pages)
            faults.append(clone.result())
            clone.wait()
        assert min(faults[:2]) > 200, faults
        assert max(faults[-3:]) < 60, faults


@pytest.mark.soak  # a figure; on a busy machine it is noise
def test_a_standby_clone_answers_sooner_than_one_on_demand() -> None:
    with clonal.Template() as plain, clonal.Template(standby=1) as ready:
        times: dict[int, list[float]] = {0: [], 1: []}
        for _ in range(40):
            for standby, template in ((0, plain), (1, ready)):
                _wait_ready(template, standby)
                start = time.perf_counter()
                clone = template.clone(work.add, 1)
                clone.result()
                times[standby].append(time.perf_counter() - start)
                clone.wait()
        assert statistics.median(times[1]) < statistics.median(times[0]), times


def test_a_template_unmaps_what_clones_do_not_touch() -> None:
    """Fork copies the entries of mappings in which the template has written: fewer are left to copy."""
    with clonal.Template(["tests.clone_work"]) as template:
        entries = []
        for _ in range(6):
            with template.clone(work.add, 1) as clone:
                clone.result()
                clone.wait()
            entries.append(_entries_to_copy(template.pid))
        assert entries[-1] < entries[0], entries  # not before the first: a template settles once it is ready


def _entries_to_copy(pid: int) -> int:
    """Mapped pages of those mappings of which some page is the process's own."""
    count = 0
    for vma in procfs.maps(pid):
        entries = procfs.pagemap(vma.start, vma.end, pid) if vma.end < 1 << 47 else []
        mapped = [not entry & procfs.PM_FILE for entry in entries if entry & procfs.PM_PRESENT]
        count += len(mapped) if any(mapped) else 0
    return count


def test_later_clones_find_what_they_always_read_already_mapped() -> None:
    """The first clones tell what they read; from then on fork copies those entries."""
    run_script(
        """
        import resource
        import clonal

        def faults():
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

        if __name__ == "__main__":
            with clonal.Template() as template:
                counts = []
                for _ in range(8):
                    with template.clone(faults) as clone:
                        counts.append(clone.result())
                        clone.wait()
            assert counts[-1] < counts[0] * 0.7, counts
        """
    )
