"""Programs that want something of SIGTRAP themselves: it happens, and they are recorded, or told why not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from clonal.observe.analyse import load
from clonal.observe.report.summary import shortcomings
from tests.integration.test_record import CLONAL, ROOT, needs_traps

PROGRAM = """
import ctypes, mmap, os, signal, sys

numbers = [float(number) for number in range(20_000)]
came = []

def note(*_):
    came.append(len(numbers))

@ctypes.CFUNCTYPE(None, ctypes.c_int)
def native(number):
    os.write(1, b"native")

def breakpoint_instruction():
    code = mmap.mmap(-1, 4096, prot=7)
    traps = {"x86_64": b"\\xcc\\xc3", "aarch64": b"\\x00\\x00\\x20\\xd4"}[os.uname().machine]  # int3, brk
    code[:len(traps)] = traps
    ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()

def want(what):
    if what == "native":
        ctypes.CDLL(None).signal(signal.SIGTRAP, native)
    else:
        before = signal.signal(signal.SIGTRAP, {"note": note, "ignore": signal.SIG_IGN}[what])
        assert before == signal.SIG_DFL

before, after, sent = sys.argv[1:]
if before != "-":
    want(before)
child = os.fork()
if not child:
    if after != "-":
        want(after)
    sum(numbers)
    if sent == "breakpoint":
        breakpoint_instruction()
    else:
        os.kill(os.getpid(), signal.SIGTRAP)
    sum(numbers)
    print(came)
    sys.stdout.flush()
    os._exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
DIES, NOTED, UNHEEDED = "-5\n", "[20000]\n3\n", "[]\n3\n"


def run(tmp_path: Path, *arguments: str) -> tuple[str, str]:
    """What it prints by itself, and recorded."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    plain = [sys.executable, str(program), *arguments]
    recorded = [*CLONAL, "-o", str(tmp_path / "r"), "--backend", "sigtrap", "--", *plain]
    first, second = (
        subprocess.run(each, cwd=ROOT, capture_output=True, text=True, timeout=60)
        for each in (plain, recorded)
    )
    assert (first.returncode, second.returncode) == (0, 0), second.stderr
    return first.stdout, second.stdout


def copied(path: Path) -> int:
    """Pages that the child copied by counting references."""
    causes = [copy.cause for copy in load(path).by_program if copy.type == "float"]
    return causes.count("reference count")


@needs_traps
@pytest.mark.parametrize(
    ("wanted", "printed"),
    [
        (("-", "-", "kill"), DIES),
        (("note", "-", "kill"), NOTED),
        (("-", "note", "kill"), NOTED),
        (("ignore", "-", "kill"), UNHEEDED),
        (("-", "ignore", "breakpoint"), DIES),
    ],
)
def test_a_sigtrap_that_no_fault_sent_does_what_the_program_wants(
    wanted: tuple[str, str, str], printed: str, tmp_path: Path
) -> None:
    assert run(tmp_path, *wanted) == (printed, printed)
    assert copied(tmp_path / "r") > 100


@pytest.mark.newest
@needs_traps
def test_a_handler_in_c_is_left_alone_and_told(tmp_path: Path) -> None:
    assert run(tmp_path, "native", "-", "kill") == ("native" + UNHEEDED,) * 2
    found = load(tmp_path / "r")
    assert not found.by_program
    told = "it has a SIGTRAP handler of its own, in C; the backends bpf and snapshot leave that alone"
    assert [each.failed for each in found.processes.values()] == [told] * 2
    assert any(told in note for note in shortcomings(found))
