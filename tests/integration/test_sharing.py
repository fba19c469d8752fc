"""clonal.sharing against families whose sharing is known to the page."""

from __future__ import annotations

import mmap
import os
import select
from pathlib import Path

import pytest

import clonal
from clonal.observe import reading
from clonal.observe.kinds import MemoryKind
from clonal.observe.pages import frames_shown
from clonal.observe.sharing import Usage
from tests.integration import sharing_fixtures as fixtures
from tests.integration.sharing_fixtures import PRELUDE, TREE, running
from tests.support import run_script

PAGE = mmap.PAGESIZE
OWN = 30 * PAGE  # what an interpreter writes of its own buffers while it runs a few lines
needs_frames = pytest.mark.skipif(not frames_shown(), reason="frames are shown to CAP_SYS_ADMIN only")


def of(family: clonal.FamilySharing, pid: int, kind: MemoryKind) -> Usage:
    (member,) = [each for each in family.members if each.pid == pid]
    return member.kinds.get(kind, Usage())


def near(size: int, pages: int) -> bool:
    return 0 <= size - pages * PAGE <= OWN


def test_without_a_process_there_is_no_family() -> None:
    with pytest.raises(TypeError):
        clonal.sharing()  # type: ignore[call-arg]


def test_a_fork_tree_is_counted_to_the_page(tmp_path: Path) -> None:
    with running(TREE, str(tmp_path / "pid")) as facts:
        family = clonal.sharing(facts["pid"])
    pids = [facts["pid"], facts["children"][0], facts["grandchild"], *facts["children"][1:]]
    assert [each.pid for each in family.members] == pids
    for number, pid in enumerate(facts["children"]):
        found = of(family, pid, MemoryKind.BUFFERS)
        assert near(found.copied or 0, 100 * (number + 1))
        # 50 pages of child 0's are its alone, since the grandchild has copied them again
        assert near(found.exclusive, 50 if number == 0 else 100 * (number + 1))
        assert found.present == found.shared + found.exclusive + (found.elsewhere or 0)
    assert near(of(family, facts["grandchild"], MemoryKind.BUFFERS).copied or 0, 50)
    assert not family.problems


@needs_frames
def test_who_shares_with_whom_is_told(tmp_path: Path) -> None:
    with running(TREE, str(tmp_path / "pid")) as facts:
        family = clonal.sharing(facts["pid"])
    assert family.method == "pfn" and family.matrix and family.distinct and family.sharers
    sets = {frozenset(pids): size for pids, size in family.sharers}
    everybody = frozenset(each.pid for each in family.members)
    assert sets[everybody] > 2700 * PAGE
    pair = frozenset((facts["children"][0], facts["grandchild"]))
    assert near(sets[pair], 50)
    assert family.distinct[MemoryKind.BUFFERS] >= (3000 + 100 + 200 + 300 + 50) * PAGE
    for a, row in enumerate(family.matrix):
        assert row[a] <= family.members[a].total.present
        assert row == [family.matrix[b][a] for b in range(len(row))]


def test_without_frames_the_exclusive_bit_tells_what_is_alone_and_copied(tmp_path: Path) -> None:
    run_script(
        f"""
        import json, subprocess, sys
        import clonal
        from clonal.observe.kinds import MemoryKind
        program = subprocess.Popen([sys.executable, "-c", sys.argv[1], "pid"],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        facts = json.loads(program.stdout.readline())
        family = clonal.sharing(facts["pid"])
        assert family.method == "exclusive bit", family.method
        assert family.matrix is None and family.distinct is None and family.sharers is None
        assert "CAP_SYS_ADMIN" in family.lost[0]
        by_pid = {{each.pid: each for each in family.members}}
        for number, pid in enumerate(facts["children"]):
            found = by_pid[pid].kinds[MemoryKind.BUFFERS]
            wanted = 50 if number == 0 else 100 * (number + 1)
            assert 0 <= found.exclusive - wanted * {PAGE} <= {OWN}, (number, found)
            assert 0 <= found.copied - wanted * {PAGE} <= {OWN}, (number, found)
            assert by_pid[pid].total.elsewhere is None
        program.stdin.close()
        program.wait()
        """,
        user="nobody",
        args=[PRELUDE + TREE],
    )


def test_what_has_executed_a_program_was_not_forked_also_where_addresses_are_not_at_random() -> None:
    source = """
import ctypes, subprocess
if ctypes.CDLL(None).personality(0x0040000) < 0:  # ADDR_NO_RANDOMIZE, for what it executes
    tell(children=[])
last = "print(0, flush=True); input()"
middle = (
    "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=-1);"
    "child.stdout.readline(); print(child.pid, flush=True); input()"
)
child = subprocess.Popen([sys.executable, "-c", middle, last], stdout=subprocess.PIPE)
tell(children=[child.pid, int(child.stdout.readline())])
"""
    with running(source) as facts:
        if not facts["children"]:
            pytest.skip("personality() is not allowed here")
        family = clonal.sharing(facts["pid"])
    assert [each.pid for each in family.members[1:]] == facts["children"]
    assert not any(each.forked for each in family.members) and family.total.copied is None


@needs_frames
def test_pages_that_only_the_parent_has_rewritten_are_its_copies_not_its_children_s() -> None:
    source = """
memory = area(1000)
write(memory, 1000)
children = [fork(lambda: None) for _ in range(3)]
write(memory, 400)
tell(children=children)
"""
    with running(source) as facts:
        family = clonal.sharing(facts["pid"])
    assert near(of(family, facts["pid"], MemoryKind.BUFFERS).copied or 0, 400)
    for pid in facts["children"]:
        assert near(of(family, pid, MemoryKind.BUFFERS).copied or 0, 0)


def test_an_shm_segment_is_shared_memory_and_a_file_is_page_cache(tmp_path: Path) -> None:
    source = """
shared = area(500, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
write(shared, 500)
with open(sys.argv[1], "w+b") as file:
    file.write(b"x" * 700 * PAGE)
    cached = area(700, mmap.MAP_SHARED, file.fileno())
    private = area(700, mmap.MAP_PRIVATE, file.fileno())
read(cached, 700)
def child():
    read(shared, 500)
    read(private, 700)
    write(private, 60)
tell(child=fork(child))
"""
    with running(source, str(tmp_path / "data")) as facts:
        family = clonal.sharing(facts["pid"])
    shared, theirs = (of(family, pid, MemoryKind.SHARED) for pid in (facts["pid"], facts["child"]))
    assert shared.present == theirs.present == theirs.shared == 500 * PAGE
    assert theirs.copied == theirs.exclusive == 0
    cached = of(family, facts["child"], MemoryKind.CACHE)
    assert cached.copied == cached.exclusive == 60 * PAGE
    assert cached.shared >= 640 * PAGE


@needs_frames
def test_the_clones_of_a_template_are_its_children_and_share_its_image(tmp_path: Path) -> None:
    fifos = {pages: tmp_path / str(pages) for pages in (100, 300)}
    for fifo in fifos.values():
        os.mkfifo(fifo)
    with clonal.Template(setup=fixtures.warm) as template:
        clones = [template.clone(fixtures.write_and_wait, *each) for each in fifos.items()]
        for fifo in fifos.values():
            assert fifo.read_text() == "x"
        family = clonal.sharing(template.pid)
        for clone in clones:
            clone.kill()
            clone.wait()
    assert [each.member.role for each in family.members] == ["template", "clone", "clone"]
    few, many = (of(family, clone.pid, MemoryKind.IMAGE) for clone in clones)
    assert few.copied and many.copied and few.copied >= 100 * PAGE
    assert abs(many.copied - few.copied - 200 * PAGE) < OWN
    assert few.shared >= 1700 * PAGE  # both have read all of the area, and one has written 300 pages of it


def test_a_member_that_ends_while_it_is_read_keeps_the_others_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = reading.pages
    with running(TREE, str(tmp_path / "pid")) as facts:
        victim = facts["children"][2]

        def pages_of_one_that_ends(pid: int, *rest: object) -> object:
            if pid == victim:
                os.kill(pid, 9)
                _wait_until_gone(pid)
            return pages(pid, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(reading, "pages", pages_of_one_that_ends)
        family = clonal.sharing(facts["pid"])
    (late,) = [each for each in family.members if each.pid == victim]
    assert late.problem == "ended while it was read" and late.rss > 0
    assert family.problems == [f"process {victim} ({late.member.name}) ended while it was read"]
    assert near(of(family, facts["children"][1], MemoryKind.BUFFERS).copied or 0, 200)


def _wait_until_gone(pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    select.select([pidfd], [], [], 10)
    os.close(pidfd)


def test_a_template_and_its_clones_are_told_without_privilege_too() -> None:
    run_script(
        """
        import os, clonal
        from clonal.observe.kinds import MemoryKind
        PAGE = 4096
        def warm():
            global area
            area = bytearray(2000 * PAGE)
            area[:] = b"x" * len(area)
        def work(pages, ready):
            import signal
            for page in range(pages):
                area[page * PAGE + 100] = 1
            with open(ready, "w") as file:
                file.write("x")
            signal.pause()
        if __name__ == "__main__":
            ready = {pages: f"ready{pages}" for pages in (100, 300)}
            for fifo in ready.values():
                os.mkfifo(fifo)
            with clonal.Template(setup=warm) as template:
                clones = [template.clone(work, *each) for each in ready.items()]
                for fifo in ready.values():
                    assert open(fifo).read() == "x"
                family = clonal.sharing(template.pid)
                for clone in clones:
                    clone.kill()
                    clone.wait()
            assert family.method == "exclusive bit"
            assert [each.member.role for each in family.members] == ["template", "clone", "clone"]
            few, many = (each.kinds[MemoryKind.IMAGE].copied for each in family.members[1:])
            assert few >= 100 * PAGE, few
            assert abs(many - few - 200 * PAGE) < 30 * PAGE, (few, many)
        """,
        user="nobody",
    )
