"""Views of a recording: the same known counts in each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from rich.cells import cell_len

from clonal.errors import Error
from clonal.observe.analyse import load
from clonal.observe.report import diff, source, tree
from clonal.observe.report.count import Tally, generations, tally, timeline
from clonal.observe.report.names import Names
from clonal.observe.report.summary import shortcomings, summary
from clonal.observe.report.table import table
from clonal.observe.report.text import Line, bar, fit_place, sparkline
from tests.recordings import HEAP, PYTHON, Recorded, shop, strange


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def made(path: Path) -> Tally:
    return tally(load(path))


def text(lines: Iterable[Line]) -> str:
    return "\n".join("".join(part for part, _ in line).rstrip() for line in lines)


def section(shown: str, title: str) -> list[list[str]]:
    """The rows below a title, as words."""
    rows = shown.split(f"\n{title}", 1)[1].split("\n\n")[0].splitlines()[1:]
    return [row.split() for row in rows]


# What is counted.


def test_what_the_program_copied_is_counted_and_what_it_did_not_copy_is_not(made: Tally) -> None:
    assert (made.copied, made.not_sure, made.reused, made.by_recording) == (100, 3, 5, 8)
    assert len(list(made.copies())) == 100


def test_a_process_or_a_cause_can_be_counted_alone(path: Path) -> None:
    recording = load(path)
    assert tally(recording, pids={102}).by(lambda row: row.cause) == [("reference count", 20)]
    assert tally(recording, cause="data").by(lambda row: row.frame.function) == [("Shop.patch", 10)]


def test_a_part_says_what_it_is_of(path: Path) -> None:
    only = tally(load(path), {101}, "data")
    assert "10 pages copied (process 101, cause data only): 40 KiB" in text(summary(only, 80))


def test_pages_are_counted_in_the_span_of_time_in_which_they_were_copied(made: Tally) -> None:
    seen = timeline(made, 10)
    assert (seen.start, seen.end, seen.span) == (0, 10**10, 10**9)
    assert seen.pages == [0, 0, 40, 20, 10, 0, 17, 3, 6, 4]
    assert seen.by_process[102] == [0] * 6 + [17, 3, 0, 0]


def test_generations_have_their_processes_and_pages(made: Tally) -> None:
    assert generations(made) == [(0, 1, 10), (1, 2, 90)]


def test_a_line_whose_code_is_gone_counts_for_the_first_that_is_known(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path / "r")
    recorded.process(1)
    recorded.copies(1, 2, (None, ("caller", "/srv/app.py", 4)))
    found = tally(load(recorded.close()))
    assert found.by(lambda row: row.frame.function) == [("caller", 2)]


# The summary.


def test_the_summary_has_every_count(made: Tally) -> None:
    shown = text(summary(made, 80))
    assert "100 pages copied: 400 KiB" in shown
    assert section(shown, "by cause")[0][:3] == ["reference", "count", "80"]
    assert [row[0] for row in section(shown, "by type")] == ["str", "Item", "(no", "dict"]
    assert section(shown, "by line")[0] == ["total", "app.py:7", "60", "240", "KiB", "60.0", "%"]
    assert section(shown, "by module")[0][:2] == ["app", "96"]
    assert section(shown, "by generation")[1][:6] == ["1:", "2", "processes,", "45", "pages", "each"]
    assert [row[:3] for row in section(shown, "by process")[1:]] == [
        ["101", "1", "70"],
        ["102", "1", "20"],
        ["100", "0", "10"],
    ]
    for line in (
        "3 of the pages were copied or reused",
        "8 more were copied by the recording itself",
        "5 more were written by the last process that had them",
        "9 were touched for the first time",
    ):
        assert line in shown


def test_a_process_without_an_end_is_told(made: Tally) -> None:
    (row,) = (row for row in section(text(summary(made, 80)), "by process") if row[0] == "102")
    assert row[-2:] == ["no", "end"]
    assert "no end: it was killed" in text(summary(made, 80))


def test_a_snapshot_says_whose_pages_it_does_not_have(path: Path) -> None:
    found = load(path)
    assert [each.pid for each in found.processes.values() if each.ended is None] == [102]
    told = "1 process had no end, being killed or running on: a snapshot is taken at the end, and what they"
    assert not any("no end" in note for note in shortcomings(found)), "its faults are in its ring"
    found.backend = "snapshot"
    (note,) = [note for note in shortcomings(found) if "no end" in note]
    assert note == f"{told} copied since their last fork is not here."
    found.from_outside = True
    assert not any("no end" in note for note in shortcomings(found)), "it was looked at all the time"


def test_a_long_ranking_ends_with_what_is_left_out(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path / "r")
    recorded.process(1)
    for number in range(20):
        recorded.copies(1, 1, ((f"f{number:02}", "/srv/app.py", number + 1),))
    rows = section(text(summary(tally(load(recorded.close())), 80)), "by line")
    assert len(rows) == 9
    assert rows[-1][:5] == ["…", "12", "more", "12", "48"]


def test_what_is_missing_is_said_first(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path / "r")
    recorded.process(1)
    recorded.process(2, failed="[Errno 13] perf_event_open: Permission denied")
    recorded.copies(1, 1, (("f", "/srv/app.py", 1),), lost=7)
    shown = text(summary(tally(load(recorded.close(status=None))), 80))
    assert "7 faults found no room" in shown
    assert "Process 2 could not be recorded: [Errno 13] perf_event_open" in shown
    assert "clonal record was killed, or it still runs" in shown


def test_a_program_that_never_forked_is_told_so(tmp_path: Path) -> None:
    shown = text(summary(tally(load(Recorded(tmp_path / "r").close(3))), 80))
    assert "No Python process was hooked in" in shown and "exit status 3" in shown


def scant(folder: Path) -> Path:
    """Of which much is missing."""
    recorded = Recorded(folder / "scant")
    recorded.process(1, failed="\x1b[31m" + "very " * 40)
    recorded.copies(1, 1, (), "unknown", lost=7)
    return recorded.close(status=None)


def test_a_type_that_is_not_known_is_not_said_to_be_none(tmp_path: Path) -> None:
    shown = text(summary(tally(load(scant(tmp_path))), 80))
    assert (
        re.search(r"by type of the object written\n  \(unknown\) +1 ", shown) and "(no object)" not in shown
    )


VIEWS: dict[str, Callable[[Tally, int], Iterable[Line]]] = {
    "summary": summary,
    "tree": tree.text,
    "source": lambda made, width: source.source(made, None, width),
    "diff": lambda made, width: diff.text(tally(made.recording, pids=set()), made, width),
}


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_fits_80_and_60_columns_and_disturbs_no_terminal(view: str, tmp_path: Path) -> None:
    for recording in map(load, (strange(tmp_path), shop(tmp_path), scant(tmp_path))):
        for width in (80, 60):
            lines = text(VIEWS[view](tally(recording), width)).split("\n")
            assert lines and all(line.isprintable() for line in lines)
            assert max(map(cell_len, lines)) <= width


def test_a_place_is_cut_where_it_says_least() -> None:
    assert fit_place("total", "app.py:7", 20) == "total  app.py:7     "
    assert fit_place("total", "shop/orders/app.py:7", 20) == "total  …ers/app.py:7"
    assert len(fit_place("a" * 50, "b" * 50, 20)) == 20


def test_bars_and_sparklines_show_the_least_that_is_there() -> None:
    assert (bar(0, 9, 10), bar(1, 10_000, 10), bar(1, 2, 4), bar(1, 1, 2)) == ("", "▏", "██", "██")
    assert sparkline([0, 1, 100, 50]) == " ▁█▄"
    assert sparkline([0, 0]) == "  "


# The other views of text.


def test_the_tree_has_callers_above_what_they_call(made: Tally) -> None:
    rows = [line.split("%", 1)[1].strip() for line in text(tree.text(made, 100)).splitlines()[1:]]
    assert rows == [
        "├ <module>  app.py:22",
        "│ ├ main  app.py:17",
        "│ │ ├ total  app.py:7  · reference count",
        "│ │ └ total  app.py:6  · reference count",
        "│ ├ main  app.py:18",
        "│ │ Shop.patch  app.py:13",
        "│ │ memcpy  libc.so.6  · data",
        "│ └ main  app.py:19  · gc header",
        "└ malloc  libc.so.6  · allocator metadata",
    ]


def test_a_recursion_is_one_line_of_the_tree_and_a_cut_stack_says_so(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path / "r")
    recorded.process(1)
    recorded.copies(1, 5, (("g", "/srv/app.py", 9), *[("f", "/srv/app.py", 3)] * 63))
    shown = text(tree.text(tally(load(recorded.close())), 80))
    assert "(callers further out)" in shown
    assert "f × 63  app.py:3" in shown


def test_the_table_has_every_line(made: Tally) -> None:
    rows = [line.split() for line in text(table(made)).splitlines()[1:]]
    assert sum(int(row[0]) for row in rows) == 100
    assert rows[0] == [
        "60",
        "240",
        "KiB",
        "reference",
        "count",
        "str",
        "python",
        "objects",
        "total",
        "app.py:7",
    ]
    assert ["10", "40", "KiB", "data", "large", "buffers", "Shop.patch", "app.py:13"] in rows


def test_the_source_has_the_pages_of_each_line(made: Tally) -> None:
    shown = text(source.source(made, "total", 80))
    assert "total  app.py  80 pages, 80.0 %" in shown
    lines = {
        line.split()[-1]: line.split() for line in shown.splitlines() if "found" in line or "items:" in line
    }
    assert lines["items:"][:3] == ["20", "refcount", "6"]
    assert lines["len(item)"][:3] == ["60", "refcount", "7"]


def test_the_source_of_a_caller_has_what_its_callees_copied(made: Tally) -> None:
    shown = text(source.source(made, "main", 80)).splitlines()
    assert [line.split() for line in shown if "total(items)" in line] == [["80", "17", "total(items)"]]
    assert [line.split()[:4] for line in shown if "collect" in line] == [["6", "gc", "header", "19"]]


def test_the_source_of_a_file_leaves_out_what_copied_nothing(made: Tally) -> None:
    numbers = [
        int(line[34:40])
        for line in text(source.source(made, "app.py", 80)).splitlines()
        if line[34:40].strip().isdigit()
    ]
    assert numbers[0] == 3 and numbers[-1] == 22 and 1 not in numbers


def test_the_source_without_a_name_is_that_of_the_functions_that_copied_most(made: Tally) -> None:
    shown = text(source.source(made, None, 80))
    heads = [line for line in shown.splitlines() if "pages," in line]
    assert [head.split()[0] for head in heads] == ["total", "Shop.patch", "main"]


def test_a_method_is_found_by_its_name_alone(made: Tally) -> None:
    assert "Shop.patch  app.py  10 pages" in text(source.source(made, "patch", 80))


def test_source_of_an_unknown_name_says_what_there_is(made: Tally) -> None:
    with pytest.raises(Error, match=r"--source nobody: no function or file .*; most did total in app.py"):
        source.source(made, "nobody", 80)


def test_source_that_is_gone_or_has_changed_is_told(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path / "r", wall=1.0)
    recorded.process(1)
    here = tmp_path / "here.py"
    here.write_text("def f():\n    pass\n")
    recorded.copies(1, 2, (("f", str(here), 2),))
    recorded.copies(1, 1, (("g", str(tmp_path / "gone.py"), 7),))
    found = tally(load(recorded.close()))
    assert "it has changed since it was recorded" in text(source.source(found, "f", 80))
    gone = text(source.source(found, "g", 80))
    assert "its source is not here" in gone
    assert gone.splitlines()[-1].split() == ["1", "refcount", "7"]


def test_the_difference_says_what_grew_and_what_shrank(made: Tally, tmp_path: Path) -> None:
    other = tally(load(shop(tmp_path, scale=2)))
    grown, shrunk = text(diff.text(made, other, 80)), text(diff.text(other, made, 80))
    assert section(grown, "functions that grew") == [["total", "app", "80", "120", "+40", "+50", "%"]]
    assert section(shrunk, "functions that shrank") == [["total", "app", "120", "80", "−40", "−33", "%"]]
    assert "functions that shrank" not in grown
    assert section(grown, "by type") == [["str", "60", "100", "+40", "+67", "%"]]
    told = diff.as_json(made, other)
    assert told["before"]["pages"], told["after"]["pages"] == (100, 140)
    assert told["causes"][0] == {"name": "reference count", "before": 80, "after": 120, "change": 40}
    assert told["functions"][0] == {
        "function": "total",
        "module": "app",
        "before": 80,
        "after": 120,
        "change": 40,
    }


def test_what_is_only_in_one_of_two_is_new_or_all_gone(tmp_path: Path) -> None:
    found = []
    for name in ("old", "new"):
        recorded = Recorded(tmp_path / name)
        recorded.process(1)
        recorded.copies(1, 4, ((name, "/srv/app.py", 1),))
        found.append(tally(load(recorded.close())))
    shown = text(diff.text(*found, 80))
    assert section(shown, "functions that grew") == [["new", "app", "0", "4", "+4", "new"]]
    assert section(shown, "functions that shrank") == [["old", "app", "4", "0", "−4", "−100", "%"]]


def test_an_expression_belongs_to_the_function_that_it_stands_in(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text("def f(x):\n    return sum(i for i in x)\n\n\nf(filter(lambda i: i, []))\n")
    recorded = Recorded(tmp_path / "r")
    recorded.process(1)
    in_f = (("f.<locals>.<genexpr>", str(app), 2), ("f", str(app), 2), ("<module>", str(app), 5))
    recorded.copies(1, 3, in_f)
    recorded.copies(1, 2, (("<lambda>", str(app), 5), *in_f))
    shown = text(source.source(tally(load(recorded.close())), None, 80)).splitlines()
    assert [line for line in shown if "pages," in line] == [
        "f  app.py  3 pages, 60.0 %",
        "<module>  app.py  2 pages, 40.0 %",
    ]
    assert shown[3].split()[:4] == ["3", "2", "refcount", "2"]  # copied, and by what it calls


def test_what_copies_have_in_common_is_kept_once(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path / "r")
    recorded.process(1)
    for _ in range(2):
        recorded.copies(1, 500, (("f", "/srv/app.py", 1),), "data", where=HEAP, native=(PYTHON, "eval"))
        recorded.copies(1, 500, (("f", "/srv/app.py", 1),), kind="str")
    copies = load(recorded.close()).copies
    assert len(copies) == 2000 and len(copies.kinds) <= 4 < sum(1 for _ in copies)
    assert len({copy.address for copy in copies}) == 2000
    assert copies[500] == list(copies)[500] == copies[400:600][100] and copies[500].type == "str"
    assert copies[0].category == "malloc heap" and copies[0].frame.function == "f"


def test_programs_of_several_folders_keep_their_paths() -> None:
    assert Names(["/srv/shop/app.py", "/srv/shop/a/b.py"]).file("/srv/shop/a/b.py") == "a/b.py"
    assert Names(["/srv/app.py", "/opt/b.py"]).file("/srv/app.py") == "/srv/app.py"


def test_a_command_goes_by_its_name_and_is_no_folder_of_the_program() -> None:
    names = Names(["/srv/shop/app.py", "/opt/env/bin/gunicorn", "/usr/sbin/nginx"])
    assert names.file("/srv/shop/app.py") == "app.py"
    assert names.file("/opt/env/bin/gunicorn") == "gunicorn"
    assert names.module("/usr/sbin/nginx") == "nginx"
    assert Names(["/srv/bin/job.py"]).file("/srv/bin/job.py") == "job.py"
