"""A recording for other tools, and the data of the flame graph: the same known counts."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clonal.observe.analyse import CAUSES, load
from clonal.observe.report import flame
from clonal.observe.report.count import PAGE, Tally, tally
from clonal.observe.report.diff import as_json as differences
from clonal.observe.report.formats import as_json, folded, speedscope
from tests.recordings import LIBC, PYTHON, Recorded, shop, strange
from tests.support import ROOT


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def made(path: Path) -> Tally:
    return tally(load(path))


def test_folded_stacks_are_callers_first_with_the_cause_at_the_end(made: Tally) -> None:
    assert list(folded(made)) == [
        "<module> (app.py:22);main (app.py:17);total (app.py:6);[reference count] 20",
        "<module> (app.py:22);main (app.py:17);total (app.py:7);[reference count] 60",
        "<module> (app.py:22);main (app.py:18);Shop.patch (app.py:13);memcpy (libc.so.6);[data] 10",
        "<module> (app.py:22);main (app.py:19);[gc header] 6",
        "malloc (libc.so.6);[allocator metadata] 4",
    ]


def test_no_name_breaks_a_folded_stack(tmp_path: Path) -> None:
    found = tally(load(strange(tmp_path)))
    lines = list(folded(found))
    assert all(line.isprintable() for line in lines)
    assert len(lines) == 5 and all(line.rpartition(" ")[2] == "1234" for line in lines)
    assert sorted(line.count(";") for line in lines) == [1, 1, 1, 2, 65]


# https://github.com/jlfwong/speedscope/blob/main/src/lib/file-format-spec.ts; `?`: may be missing
UNITS = ("none", "nanoseconds", "microseconds", "milliseconds", "seconds", "bytes")
FRAME = {"name": str, "file?": str, "line?": int, "col?": int}
SAMPLED = {
    "type": ("sampled",), "name": str, "unit": UNITS, "startValue": int, "endValue": int,
    "samples": [[int]], "weights": [int],
}  # fmt: skip
FILE = {
    "$schema": ("https://www.speedscope.app/file-format-schema.json",), "version": str,
    "shared": {"frames": [FRAME]}, "profiles": [SAMPLED], "name?": str, "activeProfileIndex?": int,
    "exporter?": str,
}  # fmt: skip


def fits(value: Any, shape: Any) -> bool:
    """Whether a value has the shape: a type, one of some values, a list of a shape, a dict of shapes."""
    if isinstance(shape, tuple):
        return value in shape
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(each, shape[0]) for each in value)
    if isinstance(shape, dict):
        must = {name for name in shape if not name.endswith("?")}
        inner = {name.rstrip("?"): each for name, each in shape.items()}
        return must <= value.keys() <= inner.keys() and all(fits(value[name], inner[name]) for name in value)
    return type(value) is shape


def test_speedscope_has_what_its_format_requires(made: Tally, tmp_path: Path) -> None:
    empty = tally(load(Recorded(tmp_path / "empty").close()))
    for each in (made, tally(load(strange(tmp_path))), empty):
        file = json.loads(json.dumps(speedscope(each)))
        assert fits(file, FILE)
        frames = file["shared"]["frames"]
        assert 0 <= file["activeProfileIndex"] < len(file["profiles"])
        for profile in file["profiles"]:
            assert len(profile["samples"]) == len(profile["weights"])
            assert profile["endValue"] - profile["startValue"] == sum(profile["weights"])
            assert all(0 <= frame < len(frames) for sample in profile["samples"] for frame in sample)


def test_speedscope_has_all_processes_and_each(made: Tally) -> None:
    profiles = {each["name"]: each["endValue"] // PAGE for each in speedscope(made)["profiles"]}
    assert profiles == {"all processes": 100, "process 100": 10, "process 101": 70, "process 102": 20}


def test_a_sample_of_speedscope_is_the_stack_from_its_root_in_the_order_of_time(made: Tally) -> None:
    file = speedscope(made)
    names = [frame["name"] for frame in file["shared"]["frames"]]
    first = file["profiles"][0]["samples"][0]
    assert [names[number] for number in first] == ["<module>", "main", "total", "[reference count]"]
    assert file["profiles"][0]["weights"] == [pages * PAGE for pages in (40, 20, 10, 20, 6, 4)]


LOCATION = {
    "function": str, "file": str, "line": int, "pages": int, "cause": str, "type": str, "category": str,
    "pid": int,
}  # fmt: skip


def test_the_json_has_every_location_of_every_process(made: Tally, path: Path) -> None:
    told = json.loads(json.dumps(as_json(made)))
    for location in told["locations"]:
        assert {name: type(value) for name, value in location.items()} == LOCATION
    assert sum(location["pages"] for location in told["locations"]) == told["pages"]["copied"] == 100
    assert told["locations"][0] == {
        "function": "total", "file": str(path.parent / "app.py"), "line": 7, "pages": 40,
        "cause": "reference count", "type": "str", "category": "python objects", "pid": 101,
    }  # fmt: skip
    assert told["causes"] == {"reference count": 80, "data": 10, "gc header": 6, "allocator metadata": 4}
    assert told["categories"] == {"python objects": 86, "large buffers": 10, "malloc heap": 4}
    assert told["types"] == {"str": 60, "Item": 20, "": 14, "dict": 6}
    assert told["modules"] == {"app": 96, "libc.so.6": 4}
    assert sum(told["timeline"]["pages"]) == 100 and told["timeline"]["seconds"] == 10


def test_the_json_tells_what_is_not_among_the_pages(made: Tally) -> None:
    told = as_json(made)
    assert told["pages"] == {
        "copied": 100, "copied_or_reused": 3, "reused": 5, "copied_by_recording": 8, "lost": 0,
        "first_touches": 9,
    }  # fmt: skip
    assert [(each["pid"], each["pages"], each["shared"], each["ended"]) for each in told["processes"]] == [
        (100, 10, 2000, 10 * 10**9),
        (101, 70, 1000, 5 * 10**9),
        (102, 20, 1000, None),
    ]
    assert told["generations"][1] == {"generation": 1, "processes": 2, "pages": 90}


def weight(node: list[Any]) -> int:
    return sum(pages for *_, pages in node[2]) + sum(map(weight, node[1]))


def test_the_flame_graph_holds_every_page_once(made: Tally) -> None:
    told = flame.data(made)
    assert weight(told["tree"]) == 100
    causes: Counter[str] = Counter()

    def add(node: list[Any]) -> None:
        for cause, _, _, pages in node[2]:
            causes[told["causes"][cause]] += pages
        for child in node[1]:
            add(child)

    add(told["tree"])
    assert causes == {"reference count": 80, "data": 10, "gc header": 6, "allocator metadata": 4}


def test_a_name_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path / "r", ["python", "</script><script>alert(1)</script>"])
    recorded.process(1)
    recorded.copies(1, 1, (("</script><img src=x>", "/srv/<b>.py", 1),))
    page = flame.page(tally(load(recorded.close())))
    assert page.count("</script>") == 2 and "<img" not in page


def test_names_of_c_are_shown_where_python_says_less(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path / "r")
    recorded.process(1)
    line = ("f", "/srv/app.py", 1)
    for library, symbol in ((PYTHON, "list_append"), (LIBC, "memset"), ("/usr/bin/python3.13", "main")):
        recorded.copies(1, 1, (line,), native=(library, symbol))
        recorded.process(1)  # symbols are told anew
    assert sorted(folded(tally(load(recorded.close())))) == [
        "f (app.py:1);[reference count] 2",
        "f (app.py:1);memset (libc.so.6);[reference count] 1",
    ]


TYPES = {
    "number": (int, float), "string": str, "boolean": bool, "object": dict, "list of strings": list,
    "list of numbers": list, "number or null": (int, float, type(None)), "string or null": (str, type(None)),
}  # fmt: skip


def documented(number: int) -> dict[str, str]:
    """The fields, with their types, of a table under JSON in docs/report.md."""
    section = (ROOT / "docs" / "report.md").read_text().split("## JSON\n")[1].split("\n## ")[0]
    table = section.split("| field | type | is |\n")[number]
    rows = [row.split("|") for row in table.splitlines() if row.startswith("| `")]
    return {name: row[2].strip() for row in rows for name in re.findall(r"`([^`]+)`", row[1])}


FREE = ("causes", "categories", "types", "modules", "recording.machine")  # whose keys are names


def output(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each field, as the documents write it, with its value."""
    if isinstance(value, dict) and path not in FREE:
        for name, inner in value.items():
            yield from output(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for inner in value:
            yield from output(inner, f"{path}[]")
    else:
        yield path, value


def test_the_json_has_exactly_the_documented_fields(made: Tally) -> None:
    for number, told in ((1, as_json(made)), (2, differences(made, made))):
        types = documented(number)
        found = list(output(json.loads(json.dumps(told))))
        assert {path for path, _ in found} == types.keys()
        assert not [(path, value) for path, value in found if not isinstance(value, TYPES[types[path]])]


def test_the_documents_list_every_cause() -> None:
    page = (ROOT / "docs" / "report.md").read_text()
    assert not [cause for cause in CAUSES if f"\n| {cause} |" not in page]
