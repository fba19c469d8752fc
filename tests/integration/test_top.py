"""What clonal top says of families that do what they are told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from clonal.observe.family import Unreadable, family
from clonal.observe.kinds import MemoryKind
from clonal.observe.top import watch
from clonal.observe.top.drill import drill
from clonal.observe.top.sampler import PAGE, Memory, Sampler, copied
from clonal.observe.top.strain import strain
from tests.integration.sharing_fixtures import running
from tests.integration.top_fixtures import FAMILY
from tests.support import IS_ROOT, run_script


def observe(body: str, user: str | None = None) -> None:
    run_script(FAMILY + body, user=user)


def test_copies_growth_and_faults_are_those_of_known_children(user: str | None) -> None:
    observe(
        """
root, (copying, growing, idle, file) = family(4)
top = sampler(root)
file.ask("look 200")
first = by_pid(top.sample())
assert set(first) == {root, copying.pid, growing.pid, idle.pid, file.pid}
assert first[root].depth == 0 and first[idle.pid].depth == 1 and first[idle.pid].root == root
assert all(row.growth is row.copies is row.minor is None for row in first.values())
copying.ask("write 301")
growing.ask("grow 500")
file.ask("scribble 201")
rows = by_pid(top.sample())
near(rows[copying.pid].copies, 300)
about(rows[copying.pid].growth, 300)
near(rows[copying.pid].minor, 300)
about(rows[copying.pid].rss - first[copying.pid].rss, 0)
about(rows[growing.pid].growth, 500)
near(rows[growing.pid].copies, 0)
near(rows[growing.pid].minor, 500)
about(rows[file.pid].copies * PAGE, 200)  # less the pages of libraries that came in meanwhile
assert rows[idle.pid].copies == rows[idle.pid].minor == rows[idle.pid].major == 0
about(rows[idle.pid].growth, 0)
for row in rows.values():
    assert row.rss == row.shared + row.private and 0 <= row.oom_score <= 2000 and row.age == 0
again = by_pid(top.sample())
assert again[copying.pid].copies == again[growing.pid].copies == again[growing.pid].minor == 0
about(again[growing.pid].growth, 0)
""",
        user,
    )


def test_pages_that_a_sibling_gave_up_are_not_copies() -> None:
    observe(
        """
root, (worker,) = family(1)
top = sampler(root)
before = by_pid(top.sample())
worker.end()
sample = top.sample()
(row,) = sample.rows
assert sample.ended == [worker.pid] and row.pid == root
assert row.private - before[root].private > 900 * PAGE
near(row.copies, 0)
assert top.sample().ended == []
"""
    )


def test_an_orphan_stays_in_its_family_and_a_new_child_joins_it() -> None:
    observe(
        """
root, (worker,) = family(1)
top = sampler(root)
assert len(top.sample().rows) == 2
worker.ask("fork 0")
(orphan,) = set(by_pid(top.sample())) - {root, worker.pid}
worker.end()
rows = by_pid(top.sample())
assert set(rows) == {root, orphan} and rows[orphan].root == root
"""
    )


def test_without_a_pid_families_are_what_was_forked_and_not_executed(user: str | None) -> None:
    observe(
        """
import subprocess
root, workers = family(2)
command = [sys.executable, "-c", "print(flush=True); input()"]
with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as alone:
    alone.stdout.readline()
    rows = by_pid(sampler(None).sample())
assert {root, workers[0].pid, workers[1].pid} <= set(rows)
assert rows[workers[1].pid].root == root
assert alone.pid not in rows and os.getpid() not in rows
""",
        user,
    )


def test_without_a_budget_one_member_is_read_at_each_sample_in_turn() -> None:
    observe(
        """
root, workers = family(3)
top = sampler(root, budget=0.0)
top.sample()
ages = [{pid: row.age for pid, row in by_pid(top.sample()).items()} for _ in range(4)]
assert all(list(each.values()).count(0.0) == 1 for each in ages)
assert max(ages[-1].values()) == 3
sample = top.sample(chosen=workers[2].pid)
assert by_pid(sample)[workers[2].pid].age == 0
workers[1].ask("write 201")
rows = by_pid(top.sample())
assert rows[workers[1].pid].age == 0 and rows[workers[1].pid].copies > 0
assert by_pid(top.sample())[workers[1].pid].copies == 0  # no fault since, though it was not read again
"""
    )


def test_of_a_member_that_hides_its_memory_the_rest_is_shown() -> None:
    observe(
        """
root, (hidden, open_) = family(2)
hidden.ask("hide 0")
top = sampler(root)
top.sample()
rows = by_pid(top.sample())
assert rows[hidden.pid].private is None and rows[hidden.pid].rss > 0 and rows[hidden.pid].minor == 0
assert "may not be inspected" in rows[hidden.pid].problem
assert rows[open_.pid].private > 0 and not rows[open_.pid].problem
""",
        "nobody",
    )


def test_a_member_is_compared_with_its_parent_page_by_page(user: str | None) -> None:
    observe(
        """
from clonal.observe.pages import frames_shown
from clonal.observe.top.drill import drill, table
root, (worker,) = family(1)
worker.ask("write 201")
parent, member = sampler(root).sample().rows
found = drill(member.member, parent.member)
headings, rows = table(found)
assert found.parent == root and found.pause >= 5
buffers = found.sharing.kinds["large buffers"]
near(buffers.copied / PAGE, 201)
assert buffers.shared / PAGE >= PAGES - 201
assert rows[-1][0] == "all" and {len(row) for row in rows} == {len(headings)}
assert ("parent" in headings) == (found.method == "pfn") == frames_shown()
alone = drill(member.member, None)
assert alone.parent is None and alone.sharing.total.copied is None and "shared" in table(alone)[0]
""",
        user,
    )


def test_a_command_line_that_changes_is_told_some_looks_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "RENEW", 2)
    again = "import os, sys; input(); os.execv(sys.executable, [sys.executable, '-c', sys.argv[1], 'again'])"
    command = [sys.executable, "-c", again, "print(flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        watched = watch.Watch(process.pid)
        (before,) = watched.look()
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()
        seen = [watched.look()[0].member.command for _ in range(2)]
        process.stdin.close()
    assert "again" not in before.member.command.split() and seen[-1].endswith(" again")


def test_what_the_parent_has_written_is_no_copy_of_the_member_s() -> None:
    """Without frames too: the page is another than the parent's, but its siblings have it still."""
    source = """
memory = area(1000)
write(memory, 1000)
children = [fork(lambda: write(memory, 100)), fork(lambda: None)]
write(memory, 400)
tell(children=children)
"""
    with running(source) as facts:
        parent, member, _ = family(facts["pid"])
        found = drill(member, parent)
    buffers = found.sharing.kinds[MemoryKind.BUFFERS]
    assert member.pid == facts["children"][0] and found.parent == parent.pid
    assert 100 * PAGE <= (buffers.copied or 0) <= 130 * PAGE


@pytest.mark.parametrize(
    ("pid", "reason"),
    [(0, "no such process"), (2, "kernel thread|no such process"), (999_999_999, "no such")],
)
def test_what_has_no_memory_is_refused(pid: int, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        Sampler(pid)


def test_a_process_of_another_user_is_refused() -> None:
    if not IS_ROOT:
        pytest.skip("needs root, to run as two users")
    script = """
from clonal.observe.family import Unreadable
from clonal.observe.top.sampler import Sampler
try:
    Sampler(1)
except Unreadable as error:
    print(error)
"""
    assert "root may (sudo)" in run_script(script, user="nobody").stdout


def memory(anonymous: int, written: int, files: int, minor: int) -> Memory:
    """Of so many pages."""
    rss = (anonymous + files) * PAGE
    return Memory(0.0, minor, rss, 0, 0, 0, anonymous * PAGE, written * PAGE)


@pytest.mark.parametrize(
    ("after", "pages"),
    [
        (memory(100, 60, 50, 60), 50),  # 50 shared pages written
        (memory(150, 60, 50, 60), 0),  # 50 new ones
        (memory(120, 80, 50, 80), 50),  # both
        (memory(130, 40, 20, 40), 30),  # pages of a file
        (memory(100, 60, 50, 12), 2),  # given up by others: two faults
        (memory(100, 0, 50, 20), 0),  # forked a child: all is shared
        (memory(100, 10, 90, 50), 0),  # read a file
    ],
)
def test_copies_are_told_from_growth(after: Memory, pages: int) -> None:
    assert copied(memory(100, 10, 50, 10), after) == pages


def test_the_strain_is_that_of_the_kernel_s_files() -> None:
    found = strain()
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    assert found.total == int(fields["MemTotal"].split()[0]) * 1024
    assert found.commit_limit == int(fields["CommitLimit"].split()[0]) * 1024
    assert found.commit_left == found.commit_limit - found.committed
    assert str(found.overcommit) == Path("/proc/sys/vm/overcommit_memory").read_text().strip()
