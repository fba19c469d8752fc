"""`clonal record --pid`: families that run already, by eBPF and by their page maps."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from clonal.observe.analyse import Recording, load
from clonal.observe.family import Member
from clonal.observe.family import family as members
from clonal.observe.record import following, outside, running
from tests import observed_family
from tests.clone_work import until
from tests.integration.test_record_bpf import needs_bpf
from tests.pythons import pythons
from tests.support import IS_ROOT, run_script

ROOT = Path(__file__).resolve().parent.parent.parent
RECORD = [sys.executable, "-m", "clonal.cli.main", "record"]
WORKERS = 3


needs_root = pytest.mark.skipif(not IS_ROOT, reason="frame numbers are shown to root only")


class Family:
    """tests/observed_family.py, running."""

    def __init__(self, python: str = sys.executable, workers: int = WORKERS) -> None:
        self.process = subprocess.Popen(
            [python, "-m", "tests.observed_family", str(workers)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.says("ready")

    def says(self, expected: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == expected

    def write(self) -> None:
        """Each worker, to so many pages."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.says("done")

    def end(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


@contextlib.contextmanager
def family(python: str = sys.executable, workers: int = WORKERS) -> Iterator[Family]:
    made = Family(python, workers)
    try:
        yield made
    finally:
        made.end()


@contextlib.contextmanager
def recorder(pid: int, path: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Recording from the first statement of the block on."""
    command = [*RECORD, "-o", str(path), "--pid", str(pid), *options]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    try:
        assert process.stderr is not None
        said = process.stderr.readline()
        if "recording" not in said:
            said = process.stderr.readline()
        assert "recording" in said
        yield process
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.kill()
        process.communicate()


def written(found: Recording) -> Counter[int]:
    """Pages of the workers' buffer, by process."""
    return Counter(copy.pid for copy in found.by_program if copy.category == "large buffers")


def stop(process: subprocess.Popen[str]) -> str:
    """As Ctrl-C does; what it said."""
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said
    return said


@needs_bpf
@pytest.mark.parametrize("python", pythons().values(), ids=pythons().keys())
def test_a_running_family_is_recorded_until_an_interruption(tmp_path: Path, python: str) -> None:
    path = tmp_path / "r.rec"
    with family(python) as made:
        made.write()
        with recorder(made.process.pid, path) as process:
            made.write()
            assert "pages copied" in stop(process)
    found = load(path)
    assert list(written(found).values()) == [observed_family.PAGES] * WORKERS
    functions = Counter(copy.frame.function for copy in found.by_program if copy.category == "large buffers")
    assert functions == {"write_part": WORKERS * observed_family.PAGES}
    assert Counter(process.generation for process in found.processes.values()) == {0: 1, 1: WORKERS}
    assert found.processes[made.process.pid].argv[-1] == str(WORKERS)


@needs_root
def test_without_ebpf_the_page_maps_tell_how_many(tmp_path: Path) -> None:
    path = tmp_path / "r.rec"
    with family() as made:
        made.write()
        with recorder(made.process.pid, path, "--backend", "snapshot") as process:
            made.write()
            stop(process)
    found = load(path)
    assert list(written(found).values()) == [observed_family.PAGES] * WORKERS
    assert {(copy.cause, copy.outcome) for copy in found.copies} == {("unknown", "copied")}


@needs_bpf
def test_recording_ends_with_the_family(tmp_path: Path) -> None:
    path = tmp_path / "r.rec"
    made = Family(workers=1)
    with recorder(made.process.pid, path) as process:
        made.write()
        made.end()
        process.communicate(timeout=30)
    found = load(path)
    assert process.returncode == 0
    assert all(each.ended is not None for each in found.processes.values())


@pytest.mark.newest
@pytest.mark.parametrize("backend", [pytest.param("bpf", marks=needs_bpf), "snapshot"])
def test_a_family_that_ends_while_it_is_looked_for_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    path = tmp_path / "r.rec"
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    def ends(pid: int, without: Sequence[int] = ()) -> list[Member]:
        found = members(pid, without)
        process.kill()
        process.communicate()
        return found

    monkeypatch.setattr(following, "family", ends)
    monkeypatch.setattr(outside, "family", ends)
    running.record_running([process.pid], path, backend=backend)
    assert load(path).status == 0


@needs_bpf
def test_recording_ends_after_its_duration(tmp_path: Path) -> None:
    path = tmp_path / "r.rec"
    with family(workers=1) as made, recorder(made.process.pid, path, "--duration", "0.1") as process:
        process.communicate(timeout=30)
        assert process.returncode == 0
    assert load(path).status == 0


@needs_bpf
def test_what_is_recorded_outlives_a_killed_recorder_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "r.rec"
    before = programs()
    with family(workers=1) as made:
        with recorder(made.process.pid, path) as process:
            assert programs() - before
            made.write()
            process.kill()
            process.wait()
        made.write()
    assert until(lambda: not programs() - before, 10)  # the kernel takes them down a moment later
    assert load(path).status is None


def programs() -> set[int]:
    """Numbers of the kernel's eBPF programs that have the name of one of Clonal's."""
    shown = subprocess.run(["bpftool", "prog", "show"], capture_output=True, text=True)
    if shown.returncode:
        pytest.skip("bpftool, which counts what is left, is not installed")
    return {int(line.partition(":")[0]) for line in shown.stdout.splitlines() if "name on_page" in line}


MISTAKES = [
    (["--pid", "4194305"], "there is no such process"),
    (["--pid", "2"], "kernel thread"),
    (["--pid", "no such name"], "no process is called 'no such name'"),
    (["--pid", "1", "--", "true"], "not both"),
    (["--pid", "1", "--duration", "0"], "--duration"),
    (["--pid", str(os.getpid()), "--backend", "sigtrap"], "with --pid use bpf"),
    (["--duration", "3", "--", "true"], "--duration is of --pid"),
]


@pytest.mark.newest
@pytest.mark.skipif(not IS_ROOT, reason="other users may not look at these processes")
@pytest.mark.parametrize(("arguments", "said"), MISTAKES)
def test_a_mistake_is_said_in_one_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    if "2" in arguments and not Path("/proc/2/exe").is_symlink():
        pytest.skip("there is no kernel thread here")
    done = subprocess.run(
        [*RECORD, "-o", str(tmp_path / "r.rec"), *arguments], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


FALLBACK = """
import os, sys
from clonal.cli.record import chosen_for_running
print(chosen_for_running("auto"))
"""


@pytest.mark.newest
@pytest.mark.skipif(not IS_ROOT, reason="this user has no rights to give up")
def test_without_rights_the_fallback_says_what_was_denied_and_what_is_lost() -> None:
    done = run_script(FALLBACK, user="nobody")
    assert "('snapshot', None)" in done.stdout, done.stderr
    assert done.stderr.count("\n") == 1
    assert "CAP_BPF and CAP_PERFMON" in done.stderr
    assert "without lines, causes and types" in done.stderr
