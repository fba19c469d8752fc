"""`clonal record --backend bpf`: copies of programs that are known, seen by the kernel."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from clonal.observe.analyse import Copy, Recording, load
from clonal.observe.record import bpf
from clonal.observe.record.trap import CannotRecord
from tests import observed

ROOT = Path(__file__).resolve().parent.parent.parent
RECORD = [sys.executable, "-m", "clonal.cli.main", "record", "--backend", "bpf"]


def refusal() -> str | None:
    """Why eBPF cannot record here."""
    try:
        bpf.require()
    except CannotRecord as error:
        return str(error)
    return None


WHY = refusal()
needs_bpf = pytest.mark.skipif(WHY is not None, reason=str(WHY))

Record = Callable[..., Recording]


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """Records a command; by default a work of tests/observed.py."""

    def run(*command: str, python: str = sys.executable, status: int = 0) -> Recording:
        path = tmp_path / "made.rec"
        if len(command) == 1:
            command = (python, "-m", "tests.observed", *command)
        done = subprocess.run(
            [*RECORD, "-o", str(path), "--", *command], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == status, done.stderr
        return load(path)

    return run


def child(found: Recording) -> list[Copy]:
    """What the child of the program copied."""
    [pid] = [process.pid for process in found.processes.values() if process.generation == 1]
    return [copy for copy in found.by_program if copy.pid == pid]


def by(copies: list[Copy], function: str) -> list[Copy]:
    return [copy for copy in copies if copy.frame.function == function]


def exactly(found: int, known: int) -> bool:
    """Within the accuracy that is aimed at."""
    return abs(found - known) <= max(1, known * 0.001)


@needs_bpf
@pytest.mark.parametrize("work", ["write_buffer", "in_threads", "die"])
def test_each_page_written_is_a_copy_on_its_line(record: Record, work: str) -> None:
    function = "write_part" if work == "in_threads" else "write_buffer"
    copies = by(child(record(work)), function)
    assert exactly(sum(copy.category == "large buffers" for copy in copies), observed.PAGES)
    lines = Counter((copy.cause, copy.outcome, copy.frame.line) for copy in copies)
    [((cause, outcome, _line), most)] = lines.most_common(1)
    assert exactly(most, observed.PAGES)
    assert (cause, outcome) == ("data", "copied")


@needs_bpf
def test_reading_objects_copies_for_their_reference_counts(record: Record) -> None:
    copies = by(child(record("read_pairs")), "read_pairs")
    causes = Counter((copy.cause, copy.type, copy.category) for copy in copies)
    assert causes["reference count", "tuple", "python objects"] >= 0.98 * len(copies) > 500


@needs_bpf
def test_a_collection_copies_for_gc_headers(record: Record) -> None:
    copies = [copy for copy in child(record("collect")) if copy.type == "Node"]
    causes = Counter(copy.cause for copy in copies)
    assert causes["gc header"] >= 0.98 * causes.total() > 50


@needs_bpf
def test_what_the_kernel_writes_has_its_line(record: Record) -> None:
    copies = [copy for copy in by(child(record("read_into")), "read_into") if copy.library == "kernel"]
    assert exactly(sum(copy.category == "large buffers" for copy in copies), observed.PAGES)
    assert {copy.cause for copy in copies} == {"data"}


@needs_bpf
def test_the_status_of_the_command_is_passed_on(record: Record) -> None:
    record(sys.executable, "-c", "raise SystemExit(3)", status=3)
    record(sys.executable, "-c", f"import os; os.kill(os.getpid(), {15})", status=143)
