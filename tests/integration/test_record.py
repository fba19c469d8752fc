"""`clonal record`: copies of programs that are known, by line, cause and type."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from clonal.cli.record import _took
from clonal.observe.analyse import Copy, Recording, load
from clonal.observe.record import trap
from clonal.observe.record.file import MAGIC, Kind, Reader, Writer
from tests import observed
from tests.support import IS_ROOT

ROOT = Path(__file__).resolve().parent.parent.parent
CLONAL = [sys.executable, "-m", "clonal.cli.main", "record"]


def refusal() -> str | None:
    """Why nothing can be recorded here."""
    try:
        trap.require()
    except trap.CannotRecord as error:
        return str(error)
    return None


needs_traps = pytest.mark.skipif(refusal() is not None, reason=str(refusal()))
needs_frames = pytest.mark.skipif(not IS_ROOT, reason="frame numbers are shown to root only")

Record = Callable[..., Recording]


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    def run(work: str, *options: str, status: int = 0) -> Recording:
        path = tmp_path / f"{work}.rec"
        command = [*CLONAL, "-o", str(path), *options, "--", sys.executable, "-m", "tests.observed", work]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == status, done.stderr
        return load(path)

    yield run


def child(found: Recording) -> list[Copy]:
    """What the child of the program copied."""
    [pid] = [process.pid for process in found.processes.values() if process.generation == 1]
    return [copy for copy in found.by_program if copy.pid == pid]


def by(copies: list[Copy], function: str) -> list[Copy]:
    return [copy for copy in copies if copy.frame.function == function]


@needs_traps
def test_each_page_written_is_a_copy_on_its_line(record: Record) -> None:
    copies = by(child(record("write_buffer")), "write_buffer")
    lines = Counter((copy.cause, Path(copy.frame.file).name) for copy in copies)
    assert abs(lines["data", "observed.py"] - observed.PAGES) <= observed.PAGES * 0.005
    assert len({copy.frame.line for copy in copies if copy.cause == "data"}) <= 2
    assert {copy.stack[1].function for copy in copies} == {"main"}


@needs_traps
def test_reading_objects_copies_for_their_reference_counts(record: Record) -> None:
    copies = by(child(record("read_pairs")), "read_pairs")
    causes = Counter((copy.cause, copy.type) for copy in copies)
    assert causes["reference count", "tuple"] >= 0.98 * len(copies) > 0
    assert {copy.category for copy in copies if copy.type == "tuple"} == {"python objects"}


@needs_traps
def test_a_collection_copies_for_gc_headers(record: Record) -> None:
    copies = by(child(record("collect")), "collect")
    causes = Counter(copy.cause for copy in copies if copy.type == "Node")
    assert causes["gc header"] >= 0.98 * causes.total() > 50


@needs_traps
def test_an_attribute_written_is_data_of_the_interpreters_objects(record: Record) -> None:
    copies = by(child(record("set_numbers")), "set_numbers")
    assert {copy.category for copy in copies} >= {"python objects"}
    assert {copy.cause for copy in copies} >= {"reference count"}


@needs_traps
def test_a_list_of_types_is_data_and_a_long_function_adapts_its_own_code(record: Record) -> None:
    copies = child(record("store_types"))
    stored = Counter((copy.cause, copy.type) for copy in by(copies, "store_types"))
    assert stored["data", ""] >= 0.99 * observed.PAGES
    assert stored["reference count", "int"] < 10
    run = Counter((copy.cause, copy.type) for copy in by(copies, "long"))
    assert run["interpreter internals", "code"] >= 0.9 * run.total() > 10


@needs_traps
@needs_frames
def test_what_the_kernel_writes_is_found_too(record: Record) -> None:
    copies = [copy for copy in child(record("read_into")) if copy.library == "kernel"]
    assert abs(len(copies) - observed.PAGES) <= observed.PAGES * 0.02
    assert {copy.cause for copy in copies} == {"data"}


def test_a_snapshot_counts_the_same_pages_without_lines(record: Record) -> None:
    copies = child(record("write_buffer", "--backend", "snapshot"))
    buffers = [copy for copy in copies if copy.category != "python objects"]
    assert observed.PAGES * 0.98 <= len(buffers) <= observed.PAGES * 1.2
    assert {copy.cause for copy in copies} == {"unknown"}
    assert not any(copy.stack for copy in copies)


def test_a_snapshot_tells_pools_of_objects(record: Record) -> None:
    copies = child(record("read_pairs", "--backend", "snapshot"))
    assert sum(copy.category == "python objects" for copy in copies) > 0.8 * len(copies)


@needs_traps
def test_threads_are_recorded(record: Record) -> None:
    copies = [copy for copy in by(child(record("in_threads")), "write_part") if copy.cause == "data"]
    assert abs(len(copies) - observed.PAGES) <= observed.PAGES * 0.02


@needs_traps
def test_a_child_that_does_nothing_copies_little(record: Record) -> None:
    assert len(child(record("nothing"))) < 100


@needs_traps
def test_what_a_killed_process_had_not_written_out_is_kept(record: Record) -> None:
    found = record("die")
    [killed] = [process for process in found.processes.values() if process.generation == 1]
    assert killed.ended is None
    assert found.status == 0
    copies = by(child(found), "write_buffer")
    assert abs(len(copies) - observed.PAGES) <= 5, "its last moments are in the memory that it shared"
    assert {copy.stack[1].function for copy in copies} == {"die"}
    assert all("python" in Path(copy.library).name for copy in copies)


@needs_traps
def test_the_status_of_the_command_is_passed_on(tmp_path: Path) -> None:
    path = tmp_path / "r.rec"
    for code, status in (("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 15)", 143)):
        done = subprocess.run(
            [*CLONAL, "-o", str(path), "--", sys.executable, "-c", code], capture_output=True
        )
        assert done.returncode == status


@needs_traps
def test_a_sitecustomize_of_the_programs_own_still_runs(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('mine')\n")
    env = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    command = [*CLONAL, "-o", str(tmp_path / "r.rec"), "--", sys.executable, "-c", "pass"]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert "mine" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give the command to record"),
        (["--", "no-such-command"], "no-such-command: no such command"),
        (["-o", "/nowhere/r.rec", "--", "true"], "there is no folder /nowhere"),
        (["--limit", "x", "--", "true"], "--limit"),
    ],
)
def test_a_mistake_is_said_in_one_line(arguments: list[str], said: str) -> None:
    done = subprocess.run([*CLONAL, *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_recording_is_readable_up_to_its_last_whole_chunk(tmp_path: Path) -> None:
    path = tmp_path / "r.rec"
    writer = Writer(str(path))
    writer.write(Kind.BEGIN, {"command": ["x"], "machine": {}, "backend": "sigtrap"}, pid=0)
    writer.write(Kind.END, {"status": 0}, pid=0)
    writer.close()
    whole = path.read_bytes()
    first = whole.index(MAGIC, len(MAGIC))
    for length in range(len(MAGIC), len(whole)):
        path.write_bytes(whole[:length])
        reader = Reader(path)
        assert len(list(reader)) == (length >= first)
        assert reader.truncated == (length != first)


def test_what_would_be_too_long_is_counted(tmp_path: Path) -> None:
    writer = Writer(str(tmp_path / "r.rec"), limit=100)
    writer.write(Kind.FAULTS, {}, b"x" * 400)
    writer.close()
    assert writer.dropped == 10


def test_overhead_is_always_told() -> None:
    assert _took(5_700) == "took 5.70 µs more for each copy, and "
    assert _took(0.0) == "took no time that could be measured for each copy, and "
    assert _took(None) == "", "a snapshot does nothing for a single copy"


@needs_traps
def test_overhead_is_cpu_time_whatever_else_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trap, "time", SimpleNamespace(thread_time_ns=time.thread_time_ns))  # no other clock
    assert trap.cost() > 0
