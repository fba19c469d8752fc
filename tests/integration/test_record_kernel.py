"""`clonal record`: what the kernel writes in system calls, with and without privilege."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

import pytest

from tests.integration.test_record import needs_traps
from tests.support import run_script

PAGES = 1024
RECORDED = """
import json, sys
from pathlib import Path
from clonal.observe.analyse import load
from clonal.observe.record.run import record
from clonal.observe.report.summary import shortcomings

Path("program.py").write_text(PROGRAM)
status = record([sys.executable, "program.py"], Path("r.rec"), backend=BACKEND)
found = load("r.rec")
[child] = [process for process in found.processes.values() if process.generation == GENERATION]
written = [copy for copy in found.by_program if copy.pid == child.pid]
print(json.dumps({
    "status": status, "failed": child.failed, "unwatched": child.unwatched,
    "kernel": sum(copy.library == "kernel" and copy.category == "large buffers" for copy in written),
    "buffers": sum(copy.category == "large buffers" for copy in written),
    "said": list(shortcomings(found)),
}))
"""
BEFORE = """
import ctypes, mmap, os, struct
PAGES, PAGE = 1024, 4096
libc = ctypes.CDLL(None, use_errno=True)
into = bytearray(PAGE * PAGES)
into[::PAGE] = b"1" * PAGES
source = open("/dev/zero", "rb", buffering=0)
address = ctypes.addressof((ctypes.c_char * len(into)).from_buffer(into)) + PAGE - 1 & -PAGE
"""
FORK = """
if os.fork():
    os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
READ = """
source.readinto(into)
os._exit(0)
"""


@dataclass
class Found:
    status: int
    failed: str | None
    unwatched: int
    kernel: int  # pages of large buffers that the kernel wrote
    buffers: int  # and whoever wrote
    said: list[str]


def recorded(program: str, user: str | None, backend: str = "sigtrap", generation: int = 1) -> Found:
    """What the child of the program wrote to, or with generation 0 the program itself."""
    script = f"PROGRAM, BACKEND, GENERATION = {program!r}, {backend!r}, {generation}\n{RECORDED}"
    told: dict[str, Any] = json.loads(run_script(script, user=user).stdout.splitlines()[-1])
    found = Found(**told)
    assert found.status == 0
    assert found.failed is None
    return found


RELEASE = tuple(map(int, os.uname().release.split(".")[:2]))
pytestmark = [
    needs_traps,
    pytest.mark.skipif(
        RELEASE < (6, 7), reason="userfaultfd tells of writes without a reader from Linux 6.7"
    ),
]
LETS_GO = """
ready, go = os.pipe()
if os.fork():
    into = None
    os.write(go, b".")
    os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
os.read(ready, 1)
os._exit(0)
"""
CHANGES_AND_READ = """
import threading
libc.mprotect(ctypes.c_void_p(address), PAGE * 512, mmap.PROT_READ)
libc.mprotect(ctypes.c_void_p(address), PAGE * 512, mmap.PROT_READ | mmap.PROT_WRITE)
before = len(os.listdir("/proc/self/fd"))
if os.fork() == 0:
    source.readinto(memoryview(into)[: PAGE * 100])
    os._exit(len(os.listdir("/proc/self/fd")) - before)
assert os.wait()[1] == 0, "a descriptor more in each generation"
reader = threading.Thread(target=source.readinto, args=(into,))
reader.start()
reader.join()
os._exit(0)
"""
WATCHES_ITSELF = """
from fcntl import ioctl
watch = libc.syscall(323, os.O_CLOEXEC | 1)
ioctl(watch, 0xC018AA3F, struct.pack("QQQ", 0xAA, 0, 0))
ioctl(watch, 0xC020AA00, struct.pack("QQQQ", address, PAGE * 512, 1, 0))
"""
REFUSES = """
load, unless, refuse, allow = (0x20, 0, 0, 0), (0x15, 0, 1, 323), (6, 0, 0, 0x50001), (6, 0, 0, 0x7FFF0000)
instructions = struct.pack("HBBI" * 4, *load, *unless, *refuse, *allow)
filter = ctypes.create_string_buffer(instructions)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, struct.pack("HxxxxxxQ", 4, ctypes.addressof(filter))) == 0
"""


@pytest.mark.parametrize("backend", ["sigtrap", "snapshot"])
def test_what_a_system_call_writes_is_found(user: str | None, backend: str) -> None:
    found = recorded(BEFORE + FORK + READ, user, backend)
    assert found.buffers == pytest.approx(PAGES + 1, abs=PAGES * 0.01)
    assert found.kernel == (found.buffers if backend == "sigtrap" else 0)
    assert not found.said


def test_also_with_threads_forks_and_mappings_that_changed(user: str | None) -> None:
    found = recorded(BEFORE + FORK + CHANGES_AND_READ, user)
    assert found.kernel == pytest.approx(PAGES + 1, abs=PAGES * 0.01)


@pytest.mark.newest
def test_pages_that_others_let_go_of_are_no_copies() -> None:
    assert recorded(BEFORE + LETS_GO, "nobody", "snapshot").buffers < PAGES * 0.01


@pytest.mark.newest
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the filter has the number of x86-64's call")
def test_where_userfaultfd_is_refused_the_rest_is_found_and_the_report_says_so() -> None:
    found = recorded(BEFORE + REFUSES + FORK + "into[::PAGE] = b'2' * PAGES" + READ, "nobody")
    assert found.kernel == 0
    assert found.buffers == pytest.approx(PAGES, abs=PAGES * 0.01)
    [said] = found.said
    assert "(userfaultfd: Operation not permitted)" in said


@pytest.mark.newest
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="userfaultfd by its number on x86-64")
def test_memory_that_the_program_watches_itself_is_left_to_it() -> None:
    program = BEFORE + WATCHES_ITSELF + "if os.fork() == 0:\n    os._exit(0)\n" + READ
    found = recorded(program, "nobody", generation=0)
    assert found.kernel < PAGES * 0.6
    assert found.unwatched >= 512
    [said] = found.said
    assert "(userfaultfd: Device or resource busy)" in said
