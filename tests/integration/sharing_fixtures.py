"""Families of known sharing, for the tests of clonal.sharing and clonal map: programs that fork, write known
numbers of pages, say so, and wait until their standard input is closed."""

from __future__ import annotations

import json
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clonal.kernel import procfs
from clonal.observe.family import family

PRELUDE = """
import json, mmap, os, sys
PAGE = mmap.PAGESIZE
def area(pages, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, fd=-1, huge=False):
    made = mmap.mmap(fd, pages * PAGE, flags=flags)
    made.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
    return made
def write(made, pages, first=0):
    for page in range(first, first + pages):
        made[page * PAGE] = 1
def read(made, pages):
    return sum(made[page * PAGE] for page in range(pages))
def fork(work):
    ready, done = os.pipe()
    pid = os.fork()
    if pid == 0:
        work()
        os.write(done, b"x")
        os.read(0, 1)
        os._exit(0)
    os.read(ready, 1)
    return pid
def tell(**facts):
    print(json.dumps({"pid": os.getpid()} | facts), flush=True)
    os.read(0, 1)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
"""

# Children 0, 1, 2 write 100, 200, 300 of 3,000 pages; a child of child 0 writes 50 of those again.
TREE = """
memory = area(3000)
write(memory, 3000)
def grandchild():
    write(memory, 50)
def child(number):
    write(memory, 100 * (number + 1))
    if number == 0:
        pids.append(fork(grandchild))
        with open(sys.argv[1], "w") as file:
            file.write(str(pids[-1]))
pids = []
children = [fork(lambda number=number: child(number)) for number in range(3)]
tell(children=children, grandchild=int(open(sys.argv[1]).read()))
"""


@contextmanager
def running(source: str, *args: str, python: str = sys.executable) -> Iterator[dict[str, Any]]:
    """The program, once it has told its facts and all of it waits; ended afterwards by closing its input."""
    process = subprocess.Popen(
        [python, "-c", PRELUDE + source, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, "the program told nothing"
        wait_until_asleep(process.pid)
        yield json.loads(line)
    finally:
        process.stdin.close()
        process.wait(20)
        process.stdout.close()


def wait_until_asleep(pid: int) -> None:
    """Until the process and its descendants wait for something: to come there, they may still copy pages."""
    while any(procfs.stat(each.pid).state in "RD" for each in family(pid)):
        os.sched_yield()


_area: list[mmap.mmap] = []


def warm() -> None:
    """The setup of a template: 2,000 pages for the image."""
    _area.append(mmap.mmap(-1, 2000 * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    _area[0].write(b"x" * len(_area[0]))


def write_and_wait(pages: int, ready: Path) -> None:
    """In a clone: reads the area, writes so many pages of it, says so, and waits to be killed."""
    _area[0].find(b"y", 0)
    for page in range(pages):
        _area[0][page * mmap.PAGESIZE] = 1
    ready.write_text("x")
    signal.pause()
