"""What `clonal doctor` finds in recordings whose pages are known one by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from clonal.observe import copies
from clonal.observe.analyse import load
from clonal.observe.doctor.examine import of_recording
from tests.recordings import BUFFER, PAGE, PYTHON, Recorded, Stack

pytestmark = pytest.mark.newest
BOOTSTRAP = "<frozen importlib._bootstrap_external>"
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


def family(folder: Path, name: str) -> Recorded:
    """A process that has forked another."""
    made = Recorded(folder / name)
    made.process(100)
    made.process(101, generation=1, parent=100)
    return made


def test_lines_that_mend_several_causes_are_one_finding_of_all_they_gain(tmp_path: Path) -> None:
    made = family(tmp_path, "causes.rec")
    made.copies(101, 3000, LINE, kind="dict")
    made.copies(101, 1000, OTHER, "gc header", kind="list")
    made.copies(101, 300, OTHER, "allocator metadata")  # too few for a finding of their own
    [found] = of_recording(load(made.close()))
    assert (found.name, found.also, found.gain) == ("reference-counts", ("gc-headers",), 4300 * PAGE)
    assert found.remedy.lines == ("import clonal", "clonal.freeze()")
    assert [fact.text[:14] for fact in found.evidence[::2]] == ["3,000 of 4,300", "1,000 of 4,300"]


def test_headers_of_the_collector_alone_need_no_image(tmp_path: Path) -> None:
    made = family(tmp_path, "headers.rec")
    made.copies(101, 1000, OTHER, "gc header", kind="list")
    made.copies(101, 300, LINE, kind="dict")
    [found] = of_recording(load(made.close()))
    assert (found.name, found.also, found.gain) == ("gc-headers", (), 1000 * PAGE)
    assert found.remedy.lines == ("import gc", "gc.freeze()")


@pytest.mark.parametrize("cause", ["reference count", "gc header", "data"])
def test_what_begins_a_new_object_is_the_allocators(cause: str, tmp_path: Path) -> None:
    made = family(tmp_path, "makers.rec")
    made.copies(101, 1000, LINE, cause, kind="str", native=(PYTHON, "_Py_NewReference"))
    [found] = of_recording(load(made.close()))
    assert (found.name, found.gain) == ("allocator", 1000 * PAGE)


def imported(file: str, line: int, *modules: str, loaded: bool = True) -> Stack:
    """A stack below an import statement, the innermost of `modules` first."""
    inner: list[tuple[str, str, int] | None] = []
    for module in modules:
        inner += [("<module>", module, 1)] if loaded else []
        inner += [("_LoaderBasics.exec_module" if loaded else "_find_spec", BOOTSTRAP, 9)]
    return [*inner, ("work", file, line), ("<module>", file, 99)]


def test_the_imports_that_are_named_have_loaded_what_they_name(tmp_path: Path) -> None:
    app = tmp_path / "shop" / "tasks.py"
    (tmp_path / "shop" / "lazy").mkdir(parents=True)
    for folder in (app.parent, app.parent / "lazy"):
        (folder / "__init__.py").touch()
    app.write_text("import json, xml.dom as dom\nimport missing\nfrom os import path\nload()\n")
    made = family(tmp_path, "imports.rec")
    json, lazy = "/usr/lib/python3.13/json/__init__.py", str(app.parent / "lazy" / "__init__.py")
    other = "/usr/lib/python3.13/site-packages/celery/app/base.py"
    fixup = "/usr/lib/python3.13/site-packages/celery/fixups/django.py"
    for stack, pages in (
        (imported(str(app), 1, json), 300),
        (imported(str(app), 2, "", loaded=False), 290),  # except ImportError: pass
        (imported(str(app), 3, json), 280),
        (imported(str(app), 4, json, lazy), 270),  # importlib.import_module(…)
        (imported(other, 7, fixup), 400),  # a library's own, later than the program's
    ):
        made.copies(101, pages, stack)
    [found] = of_recording(load(made.close()))
    assert found.name == "imports" and found.gain == 1540 * PAGE
    lines = ("import json, xml.dom, shop.lazy, celery.fixups.django", "from os import path")
    assert found.remedy.lines == lines
