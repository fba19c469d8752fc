"""`clonal doctor PID`: page tables, small pages that fork copies one by one, huge pages that are lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import clonal as package
from clonal.cli.main import main
from clonal.kernel.probe import KERNEL
from clonal.observe.doctor import huge, tables
from tests.integration.doctor_machine import roomy as roomy
from tests.integration.sharing_fixtures import running

pytestmark = pytest.mark.newest
Captured = pytest.CaptureFixture[str]
MIB = 1 << 20
needs_huge_pages = pytest.mark.skipif(
    KERNEL.thp_enabled not in ("always", "madvise"),
    reason=f"huge pages are {KERNEL.thp_enabled or 'not there'}",
)
needs_collapse = pytest.mark.skipif(not KERNEL.madv_collapse, reason="MADV_COLLAPSE needs Linux 6.1")
needs_shared = pytest.mark.skipif(
    Path(huge.MAX_SHARED).exists() and int(Path(huge.MAX_SHARED).read_text()) != 256,
    reason="khugepaged/max_ptes_shared is not 256",
)

TABLES = """
memory = area(256 << 8)
memory[::PAGE] = b"1" * (len(memory) // PAGE)
# HERE
tell(children=[fork(int) for _ in range(6)])
"""

# A page in each 2 MiB: an image of it has a mapping for each of them.
SCATTERED = """
shape, dtype = 1 << 30, "u1"
table = area(shape // PAGE)
# TABLE
for at in range(0, shape, 2 << 20):
    table[at] = 1
tell(children=[fork(int) for _ in range(6)])
"""

# Pages so near to each other that an image has them in one mapping.
NEAR = """
memory = area(256 << 8)
for at in range(0, len(memory), 128 << 10):
    memory[at] = 1
# HERE
tell(children=[fork(int) for _ in range(6)])
"""

SMALL = """
memory = area(700 << 8)
memory[::PAGE] = b"1" * (len(memory) // PAGE)
# HERE
tell(child=fork(int))
"""

SPLIT = """
memory = area(520 << 8, huge=True)
memory[::PAGE] = b"1" * (len(memory) // PAGE)
# HERE
def work():
    for at in range(0, len(memory), 2 << 20):
        memory[at] = 2
tell(child=fork(work))
"""

# What khugepaged does when it comes by (Documentation/admin-guide/mm/transhuge.rst).
COLLAPSED = """
MADV_COLLAPSE = 25
memory = mmap.mmap(-1, 16 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory[::PAGE] = b"1" * (len(memory) // PAGE)
def work():
    # HERE
    memory.madvise(MADV_COLLAPSE)
tell(child=fork(work))
"""


def doctor(capsys: Captured, pid: int) -> list[dict[str, Any]]:
    assert main(["doctor", "--json", str(pid)]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["findings"]
    return found


def treated(program: str, found: dict[str, Any]) -> str:
    return program.replace("# HERE", "\n".join(found["remedy"]["lines"]))


def of_children(pid: int) -> int:
    """Bytes of page tables."""
    return sum(each.page_tables for each in package.sharing(pid).members if each.pid != pid)


@pytest.mark.parametrize(
    ("program", "place", "remedy"),
    [(TABLES, "# HERE", "clonal.freeze()"), (SCATTERED, "# TABLE", "clonal.shared_array"),
     (NEAR, "# HERE", "clonal.freeze()")],
)  # fmt: skip
def test_page_tables_and_what_the_remedy_saves(
    program: str, place: str, remedy: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(program) as facts:
        assert doctor(capsys, facts["pid"]) == []  # some MiB in all
        monkeypatch.setattr(tables, "TABLES", 2 * MIB)
        monkeypatch.setattr(tables, "OF_MEMORY", 0.01)
        [found] = doctor(capsys, facts["pid"])
        before = of_children(facts["pid"])
    assert found["finding"] == "page-tables" and remedy in found["remedy"]["lines"][1]
    with running(program.replace(place, "\n".join(found["remedy"]["lines"]))) as facts:
        after = of_children(facts["pid"])
        assert doctor(capsys, facts["pid"]) == []
    assert abs((before - after) / found["gain_bytes"] - 1) <= 0.25, (before, after, found)


def test_page_tables_that_children_need_are_no_finding(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "TABLES", 2 * MIB)
    monkeypatch.setattr(tables, "OF_MEMORY", 0.001)
    with running(TABLES.replace("fork(int)", "fork(lambda: write(memory, len(memory) // PAGE))")) as facts:
        assert doctor(capsys, facts["pid"]) == []


def test_small_pages_that_each_fork_copies_an_entry_for(capsys: Captured) -> None:
    with running(SMALL) as facts:
        [found] = doctor(capsys, facts["pid"])
    assert found["finding"] == "small-pages" and "0 B of it in huge pages" in found["evidence"][0]["text"]
    assert found["gain"].startswith("one fork") and "by clonal plan" in found["gain"]
    with running(treated(SMALL, found)) as facts:
        assert doctor(capsys, facts["pid"]) == []


@needs_huge_pages
def test_huge_pages_that_a_child_splits(capsys: Captured) -> None:
    with running(SPLIT) as facts:
        [found] = doctor(capsys, facts["pid"])
    assert found["finding"] == "split-pages" and "has split 260" in found["evidence"][1]["text"]
    assert found["gain"].startswith("first writes of a child")
    with running(treated(SPLIT, found)) as facts:
        assert doctor(capsys, facts["pid"]) == []


@needs_huge_pages
@needs_collapse
@needs_shared
def test_huge_pages_that_are_made_of_what_was_shared(capsys: Captured) -> None:
    with running(COLLAPSED) as facts:
        [found] = doctor(capsys, facts["pid"])
    assert found["finding"] == "collapsed-pages" and found["gain_bytes"] is None
    assert found["evidence"][0]["text"].startswith("16 MiB") and found["gain"].startswith("at most 8 MiB:")
    [line] = found["remedy"]["lines"]
    assert Path(line.partition("> ")[2]).exists()
    with running(COLLAPSED.replace("# HERE", "return")) as facts:
        assert doctor(capsys, facts["pid"]) == []
