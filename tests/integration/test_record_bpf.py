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
from tests.support import IS_ROOT, run_script

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


NUMPY = """
import os, numpy
table = numpy.ones((1024, 1024), numpy.float32)
def write_table():
    table[::2] += 1
if os.fork() == 0:
    write_table()
    os._exit(0)
os.wait()
"""


@needs_bpf
def test_what_numpy_writes_is_on_its_line(record: Record) -> None:
    copies = by(child(record(sys.executable, "-c", NUMPY)), "write_table")
    large = [copy for copy in copies if copy.category == "large buffers" and copy.cause == "data"]
    assert exactly(len(large), 1024)  # a row begins 16 bytes into a page: it ends in the next


MAPPED = """
import mmap, os, sys
def mapping():
    made = mmap.mmap(file.fileno(), 512 * 4096, flags=mmap.MAP_PRIVATE)
    made[::4096 * 2]
    return made
def write_before():
    before[::4096] = bytes(512)
def write_after():
    mapping()[::4096] = bytes(512)
file = open(sys.argv[1], "r+b")
before = mapping()
if os.fork() == 0:
    write_before()
    write_after()
    os._exit(0)
os.wait()
"""


@needs_bpf
def test_pages_of_a_file_count_if_they_were_mapped_at_the_fork(record: Record, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"1" * 512 * 4096)
    found = record(sys.executable, "-c", MAPPED, str(file))
    copies = child(found)
    before = [copy for copy in by(copies, "write_before") if copy.category == "page cache"]
    assert exactly(len(before), 512)
    assert len(by(copies, "write_after")) < 50  # its own objects


NATIVE = """
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
enum { PAGES = 300, PAGE = 4096 };
__attribute__((noinline)) void write_pages(volatile char *at)
{
    for (int i = 0; i < PAGES; i++)
        at[(long)i * PAGE] = 2;
}
int main(void)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    char *heap = mmap(0, PAGES * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
    memset(heap, 1, PAGES * PAGE);
    if (fork() == 0) {
        write_pages(heap);
        _exit(0);
    }
    wait(0);
    return 0;
}
"""


@needs_bpf
def test_a_program_without_python_is_recorded_by_its_functions(record: Record, tmp_path: Path) -> None:
    source, program = tmp_path / "native.c", tmp_path / "native"
    source.write_text(NATIVE)
    subprocess.run(["cc", "-O1", source, "-o", program], check=True)
    copies = [copy for copy in child(record("sh", "-c", f"{program}; true")) if copy.symbol == "write_pages"]
    assert exactly(len(copies), 300)
    assert {(copy.frame.function, copy.library) for copy in copies} == {("write_pages", str(program))}


EXECUTES = """
import os, subprocess
if os.fork() == 0:
    os.execvp("true", ["true", "of", "course"])
os.wait()
subprocess.run(["true"])
"""


@needs_bpf
def test_a_child_that_executes_is_told_of_and_vfork_shares_nothing(record: Record) -> None:
    found = record(sys.executable, "-c", EXECUTES)
    executed = [process for process in found.processes.values() if process.executes]
    assert [process.executes[0].rpartition("/")[2] for process in executed] == ["true"]
    assert executed[0].shared > 100
    assert len(found.processes) == 2


@needs_bpf
@pytest.mark.newest
def test_what_is_too_much_for_the_limit_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "r.rec"
    command = [sys.executable, "-m", "tests.observed", "write_buffer"]
    done = subprocess.run(
        [*RECORD, "-o", str(path), "--limit", "60000", "--", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    found = load(path)
    lost = sum(process.lost for process in found.processes.values())
    assert lost > 0, done.stderr
    assert path.stat().st_size < 200_000


REFUSED = """
import sys
from clonal.observe.record import bpf
from clonal.observe.record.trap import CannotRecord
{change}
try:
    bpf.load()
except CannotRecord as error:
    print(error)
"""
REFUSALS = [
    ("bpf.BTF = '/nowhere'", "CONFIG_DEBUG_INFO_BTF"),
    ("sys.modules['clonal._bpf'] = None", "install clang and libbpf-dev"),
    ("bpf.platform.machine = lambda: 'aarch64'", "arm64"),
    ("bpf.FIRST_NAMESPACE = 'pid:[1]'", "PID namespace"),
]


@pytest.mark.newest
@needs_bpf
@pytest.mark.parametrize(("change", "said"), REFUSALS)
def test_what_is_missing_is_said(change: str, said: str) -> None:
    done = run_script(REFUSED.format(change=change))
    assert said in done.stdout
    assert done.stdout.count("\n") == 1


@pytest.mark.newest
@pytest.mark.parametrize("failure", ["raise OSError", "os.kill(os.getpid(), 9)"])
def test_the_child_that_ebpf_is_tried_out_on_ends_whatever_fails(failure: str) -> None:
    """run_script fails where a process is left behind, and where one waits for ever."""
    run_script(
        f"""
        import os
        from contextlib import suppress
        from clonal.observe.record import bpf

        class Program:
            def python(self, *_):
                {failure}
            def forget(self, _):
                pass

        if os.fork() == 0:
            with suppress(OSError):
                bpf._child(bytearray(4096), Program(), True)
            os._exit(0)
        os.wait()
        """
    )


@pytest.mark.newest
@needs_bpf
@pytest.mark.skipif(not IS_ROOT, reason="this user has no rights to give up")
def test_nobody_is_told_which_rights_are_needed() -> None:
    done = run_script(REFUSED.format(change=""), user="nobody")
    assert "run as root, or with CAP_BPF and CAP_PERFMON" in done.stdout
    assert done.stdout.count("\n") == 1
