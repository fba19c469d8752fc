"""What `clonal doctor` finds in recordings whose pages are known one by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from clonal.observe import copies
from clonal.observe.analyse import load
from clonal.observe.doctor.examine import of_recording
from tests.recordings import BUFFER, PAGE, Recorded

pytestmark = pytest.mark.newest
MIB = 1 << 20
LINE, OTHER = (("fill", "/srv/app.py", 3),), (("look", "/srv/app.py", 9),)


def test_a_page_of_a_table_counts_if_two_processes_copied_it(tmp_path: Path) -> None:
    made = Recorded(tmp_path / "tables.rec")
    made.process(100)
    for pid in (101, 102):
        made.process(pid, generation=1, parent=100)
    written = 0
    for pid, first, pages in ((101, 0, 2000), (101, 0, 500), (102, 1000, 2000), (102, 9000, 100)):
        made.copies(pid, pages, LINE, "data", where=BUFFER + (first - written) * PAGE)
        written += pages  # a page further on, each of them
    [found] = of_recording(load(made.close()))
    assert found.name == "shared-tables" and found.gain == 2 * 1000 * PAGE
    assert "2,000 of 4,600 pages" in found.evidence[0].text
    assert "the same 1,000 in 2 processes" in found.evidence[0].text


def test_copies_are_counted_by_kind_and_not_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Recorded(tmp_path / "counts.rec")
    made.process(100)
    made.process(101, generation=1, parent=100)
    made.copies(101, 3000, LINE, kind="dict")
    made.copies(101, 200, OTHER, kind="code")
    made.copies(101, 5000, LINE, kind="dict", outcome="reused")
    recording = load(made.close())
    monkeypatch.delattr(copies.Copies, "_made")  # makes an object of each
    [found] = of_recording(recording)
    assert found.name == "reference-counts" and found.gain == 3000 * PAGE
    told = [fact.text for fact in found.evidence]
    assert told[0].startswith("3,200 of 3,200 pages copied")
    assert told[1] == "3,000 of them at fill (app.py:3), of objects of type dict, code"
    assert told[2].startswith("200 of them of code")
