"""`clonal record`: processes that fork again and again, and memory that is mapped anew."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from tests.integration.test_record import needs_traps
from tests.support import run_script

PAGES, FORKS = 100, 60
RECORDED = """
import json, sys
from collections import Counter
from pathlib import Path
from clonal.observe.analyse import load
from clonal.observe.record.run import record

Path("program.py").write_text(PROGRAM)
status = record([sys.executable, "program.py"], Path("r.rec"))
found = load("r.rec")
pids = [process.pid for process in found.processes.values() if process.generation == GENERATION]
copies = [copy for copy in found.by_program if copy.pid in pids and copy.cause == "data" and not copy.type]
copies = [copy for copy in copies if copy.category == "large buffers"]
failed = [process.failed for process in found.processes.values()]
print(json.dumps([status, failed, Counter(copy.frame.function for copy in copies)]))
"""
OFTEN = f"""
import mmap, os
PAGES, PAGE = {PAGES}, 4096
base = bytearray(PAGE * PAGES * 100)
base[::PAGE] = b"1" * (PAGES * 100)
source = open("/dev/zero", "rb", buffering=0)
kept = []

def old(value):
    base[: PAGES * PAGE : PAGE] = bytes([value]) * PAGES

def new(buffer, value):
    buffer[::PAGE] = bytes([value]) * len(range(0, len(buffer), PAGE))

def grow(by_kernel):
    kept.append(mmap.mmap(-1, PAGE * PAGES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    if by_kernel:
        source.readinto(kept[-1])
    else:
        kept[-1][::PAGE] = b"1" * PAGES

for number in range({FORKS}):
    ready, go = os.pipe()
    if os.fork() == 0:
        os.close(go)
        os.read(ready, 1)
        os._exit(0)
    os.close(ready)
    old(number + 1)
    if kept:
        new(kept[-1], number + 1)
    grow(number % 2)
    with mmap.mmap(-1, PAGE * PAGES + PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as short:
        short[::PAGE] = b"1" * (PAGES + 1)  # the next to grow is mapped in its place
    os.close(go)
    os.wait()
"""
MAPPED = """
import mmap, os
PAGE, PAGES = 4096, 1000
source = open("/dev/zero", "rb", buffering=0)

def made():
    return mmap.mmap(-1, PAGE * PAGES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

gone, read_too, moved, zeroes = made(), made(), made(), made()
for each in gone, read_too, moved:
    each[::PAGE] = b"1" * PAGES
for at in range(0, len(zeroes), PAGE):
    zeroes[at]

def write_to_what_was_mapped_in_its_place():
    gone.close()
    made()[::PAGE] = b"2" * PAGES

def read_into_what_was_mapped_in_its_place():
    read_too.close()
    source.readinto(made())

def write_to_what_was_moved():
    moved.resize(PAGE * PAGES * 9)
    for at in range(0, PAGE * PAGES, PAGE):
        moved[at] = 2

def write_to_zeroes():
    zeroes[::PAGE] = b"2" * PAGES

if os.fork() == 0:
    write_to_what_was_mapped_in_its_place()
    read_into_what_was_mapped_in_its_place()
    write_to_what_was_moved()
    write_to_zeroes()
    os._exit(0)
os.wait()
"""
POOL = """
import multiprocessing
buffer = bytearray(4096 * 1000)
buffer[::4096] = b"1" * 1000

def work(number):
    buffer[:: 4096 * 10] = b"2" * 100

if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
        pool.map(work, range(6), chunksize=1)
        pool.close()
        pool.join()
"""


def pages(program: str, generation: int, user: str | None) -> Mapping[str, int]:
    """How many pages of buffers each function copied."""
    script = f"PROGRAM, GENERATION = {program!r}, {generation}\n{RECORDED}"
    status, failed, found = json.loads(run_script(script, user=user).stdout.splitlines()[-1])
    assert status == 0
    assert not any(failed), failed
    counts: Mapping[str, int] = found
    return counts


@needs_traps
def test_each_copy_of_a_parent_that_forks_often_is_counted(user: str | None) -> None:
    found = pages(OFTEN, 0, user)
    assert found["old"] == pytest.approx(FORKS * PAGES, abs=FORKS * PAGES * 0.005)
    assert found["new"] == pytest.approx((FORKS - 1) * PAGES, abs=FORKS * PAGES * 0.005)
    assert found.get("grow", 0) <= FORKS, "new memory; at most its edge lies on a page that was there"


@needs_traps
def test_what_is_mapped_anew_is_no_copy_and_what_is_moved_is(user: str | None) -> None:
    found = pages(MAPPED, 1, user)
    assert found == {"write_to_what_was_moved": pytest.approx(1000, abs=5)}


@pytest.mark.newest
@needs_traps
def test_a_process_forked_while_another_thread_writes_out_writes_out_itself() -> None:
    run_script(
        """
        import os
        from clonal.observe.record.hook import Recorder

        buffer = bytearray(4096 * 20)
        buffer[::4096] = b"1" * 20
        recorder = Recorder("r", 1 << 20)
        recorder._draining = True
        child = os.fork()
        if not child:
            recorder.child()
            buffer[::4096] = b"2" * 20
            recorder.drain()
            os._exit(recorder._written < 20)
        assert os.waitpid(child, 0)[1] == 0
        """
    )


@needs_traps
def test_forks_by_a_thread_are_recorded() -> None:
    """The workers of a pool are replaced by a thread of its."""
    assert pages(POOL, 1, None)["work"] == 600
