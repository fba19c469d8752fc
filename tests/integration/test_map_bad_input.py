"""`clonal map` of families that end, or hide, while they are looked at, and on kernels that tell less."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from clonal.kernel import procfs
from clonal.observe import family, reading
from tests.support import run_script

pytestmark = pytest.mark.newest

ENDS = """
import os, select, signal
from clonal.kernel import procfs
from clonal.observe import family, frames, numa, page_map, prometheus, programs, reading, scan, sharing, table


def tree():
    '''A parent and two children, one page apart.'''
    ready, told = os.pipe()
    parent = os.fork()
    if parent == 0:
        area = bytearray(1 << 16)
        children = [os.fork(), 0]
        if children[0]:
            children[1] = os.fork()
        if not all(children):
            area[0] = 1
        os.write(told, b".")
        signal.pause()
    for _ in range(3):
        os.read(ready, 1)
    with open(f"/proc/{parent}/task/{parent}/children") as file:
        return [parent, *map(int, file.read().split())]


def end(pid, collect):
    pidfd = os.pidfd_open(pid)
    os.kill(pid, 9)
    select.select([pidfd], [], [])
    os.close(pidfd)
    if collect:
        os.waitpid(pid, 0)


def looked_at(pids, victim, module, step, collect):
    '''What is said of a family of which `victim` ends at this step.'''
    usual, done = getattr(module, step), []

    def ending(*arguments):
        mine = step in NAMELESS or any(isinstance(each, int) and each == victim for each in arguments)
        if mine and not done:
            done.append(True)
            end(victim, collect)
        return usual(*arguments)

    setattr(module, step, ending)
    try:
        taken = sharing.snapshot([pids[0]], index=True)
    finally:
        setattr(module, step, usual)
    assert done, step
    found = taken.summary()
    assert table.headline(found) and list(table.tables(found, 80)) and prometheus.text(found)
    assert victim != pids[0] or page_map.page(taken)
    return found


NAMELESS = {"processes", "classify", "count"}
STEPS = [
    (procfs, "stat"), (procfs, "status"), (procfs, "read"), (family, "processes"), (family, "words"),
    (procfs, "smaps"), (programs, "extents"), (reading, "classify"), (numa, "by_node"), (reading, "pages"),
    (reading, "find_objects"), (frames, "count"),
]
for module, step in STEPS:
    for of_parent in (True, False):
        pids = tree()
        victim = pids[0 if of_parent else 1]
        try:
            found = looked_at(pids, victim, module, step, collect=of_parent)
            others = {each.pid for each in found.members if not each.problem}
            assert others >= set(pids) - {victim}, (step, found.problems)
            assert all("ended while it was read" in each for each in found.problems), (step, found.problems)
        except family.Unreadable as error:
            why = str(error).partition(": ")[2]
            assert of_parent and why in ("there is no such process", "has ended while it was looked for"), why
        finally:
            for pid in pids:
                try:
                    os.kill(pid, 9)
                except ProcessLookupError:
                    pass
            if victim != pids[0]:
                os.waitpid(pids[0], 0)
"""


@pytest.mark.parametrize(("user", "scans"), [(None, True), ("nobody", False)])
def test_at_whatever_step_a_member_ends_the_others_are_told(user: str | None, scans: bool) -> None:
    without = "" if scans else "from clonal.observe import scan\nscan.available = lambda: False\n"
    run_script(without + ENDS, user=user)


@pytest.mark.parametrize("user", [None, "nobody"])
def test_a_kernel_without_pagemap_scan_gives_the_same_figures(user: str | None) -> None:
    run_script(
        """
        import subprocess, sys
        from dataclasses import asdict
        from clonal.observe import scan, sharing
        from clonal.observe.kinds import MemoryKind

        code = '''
        import mmap, os, signal
        area = mmap.mmap(-1, 300 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # mostly empty
        for page in range(0, 1 << 20, 4096):
            area[page] = 1
            area[page + (8 << 20)]  # the zero page
        if os.fork():
            os.wait()
        else:
            area[0] = 2
            print(flush=True)
            os.read(0, 1)
        '''
        program = [sys.executable, "-c", code.replace("\\n        ", "\\n")]
        with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            with_it = sharing.sharing(process.pid)
            scan.available = lambda: False
            without = sharing.sharing(process.pid)
            process.stdin.close()
        assert with_it.method == without.method
        for one, other in zip(with_it.members, without.members, strict=True):
            for name, size in asdict(one.kinds[MemoryKind.BUFFERS]).items():
                told = getattr(other.kinds[MemoryKind.BUFFERS], name)  # a heap's zero page: a guess
                assert size == told or abs(size - told) <= 4096, (name, size, told)
            assert one.kinds[MemoryKind.BUFFERS].zero >= 256 * 4096
        """,
        user=user,
    )


def test_a_process_that_hides_its_memory_is_told_among_its_family() -> None:
    """Its own user may not read it (prctl PR_SET_DUMPABLE), and with it neither pagemap nor smaps."""
    run_script(
        """
        import ctypes, os, signal, subprocess, sys
        from clonal.observe import prometheus, table
        from clonal.observe.sharing import sharing
        ready, told = os.pipe()
        parent = os.fork()
        if parent == 0:
            if os.fork() == 0:
                ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
            os.write(told, b".")
            signal.pause()
        os.read(ready, 1), os.read(ready, 1)
        try:
            family = sharing(parent)
            (problem,) = family.problems
            assert "may not be inspected" in problem and "root may (sudo)" in problem, problem
            assert family.members[0].total.present
            hidden = family.members[1]
            assert family.members[0].known and not hidden.known
            made = family.to_json()["members"][1]
            assert {made[name] for name in ("rss", "pss", "uss", "page_tables", "total")} == {None}
            first, *parts = table.tables(family, 100)
            assert set(first.rows[1][1:]) == {"—"}
            assert not any(str(hidden.pid) == row[0] for part in parts for row in part.rows)
            assert f'{{pid="{hidden.pid}"' not in prometheus.text(family)
            words = [sys.executable, "-m", "clonal.cli.main", "map", str(family.members[1].pid)]
            told = subprocess.run(words, capture_output=True, text=True)
            assert told.returncode == 2 and told.stderr.count("\\n") == 1, told
        finally:
            os.kill(family.members[1].pid, 9)
            os.kill(parent, 9)
            os.waitpid(parent, 0)
        """,
        user="nobody",
    )


def test_one_that_has_given_up_its_memory_but_is_no_zombie_yet_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As it is for a moment in every exit: what was its user's to read is root's already."""
    pid, stat = os.getpid(), procfs.stat()
    assert not family.ended(pid)
    monkeypatch.setattr(procfs, "stat", lambda _: stat._replace(state="R", vsize=0, rss=0))
    monkeypatch.setattr(procfs, "smaps", denied)
    told = reading.read(family.Member(pid, 1, "x"), None, reading.Common(), None)
    assert told.problem == reading.ENDED


def denied(pid: int, _: object) -> list[procfs.Smap]:
    raise PermissionError(pid)


def test_thousands_of_mappings_are_no_trouble() -> None:
    code = """
import mmap, signal
keep = [mmap.mmap(-1, 8192, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 1 + number % 2) for number in range(8000)]
keep[1][0]
print(flush=True)
signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        words = [sys.executable, "-m", "clonal.cli.main", "map", str(process.pid)]
        told = subprocess.run(words, capture_output=True, text=True, timeout=30)
        process.kill()
    assert told.returncode == 0 and "mapped and in memory" in told.stdout and not told.stderr


@pytest.mark.parametrize("output", ["--json", "--prometheus"])
def test_a_reader_that_ends_early_is_no_error(output: str) -> None:
    words = [sys.executable, "-m", "clonal.cli.main", "map", str(os.getpid()), output]
    reader, writer = os.pipe()
    os.close(reader)
    told = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, timeout=30)
    os.close(writer)
    assert (told.returncode, told.stderr) == (141, b"")
