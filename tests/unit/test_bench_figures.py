"""The benchmark's arithmetic, without a benchmark."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from clonal.bench.article import parse_trace
from clonal.bench.clock import Slot, spans
from clonal.bench.results import Results, Row, instability
from clonal.bench.run import batches
from clonal.bench.statistics import Measure, crossing, slope
from clonal.errors import Error
from clonal.report import html
from clonal.report.words import duration, parse_size, size
from tests.support import ROOT


def test_a_measure_is_median_and_quartiles() -> None:
    measure = Measure.of([5, 1, 4, 2, 3])
    assert (measure.q1, measure.median, measure.q3, measure.minimum, measure.count) == (2, 3, 4, 1, 5)
    assert Measure.of([7]).spread == 0


def test_wide_spread_is_unstable_and_the_warning_says_what_to_run() -> None:
    steady, shaky = Measure.of([10, 10, 10, 10, 11]), Measure.of([1, 5, 10, 20, 40])
    rows = [Row("fork", "os.fork", 64 << 20, "off", "", {"stall": steady, "first": shaky})]
    [warning] = instability(Results({}, {"rounds": 7}, rows))
    assert "os.fork at 64 MiB, first instruction" in warning
    assert "--rounds 21" in warning
    assert instability(Results({}, {"rounds": 7}, [])) == []


def test_two_samples_are_too_few_to_call_unstable() -> None:
    assert not Measure.of([1, 100]).unstable


def test_a_crossing_lies_where_the_second_curve_rises_above_the_first() -> None:
    assert crossing([(0.0, 2.0, 1.0), (0.5, 3.0, 2.0), (1.0, 4.0, 5.0)]) == pytest.approx(0.75)
    assert crossing([(0.0, 2.0, 1.0), (1.0, 4.0, 3.0)]) is None
    assert slope([(0, 1), (10, 6)]) == pytest.approx(0.5)


def test_spans_leave_out_what_was_not_noted() -> None:
    times = dict.fromkeys(Slot, 0) | {Slot.CALL: 10, Slot.RETURN: 25, Slot.FIRST: 20}
    assert spans(times) == {"stall": 15, "first": 10}


def test_every_batch_has_the_anchor_beside_it() -> None:
    assert list(batches(["fork", "a", "b", "c"], 3)) == [["fork", "a", "b"], ["fork", "c"]]
    assert list(batches(["a", "b"], 2)) == [["a", "b"]]
    assert list(batches(["fork"], 2)) == [["fork"]]


def test_forks_are_counted_by_the_program_that_made_them() -> None:
    trace = """\
1 execve("/usr/bin/bash", ["bash", "/tmp/x.sh"], 0x1 /* 9 vars */) = 0
1 clone(child_stack=NULL, flags=CLONE_CHILD_SETTID|SIGCHLD <unfinished ...>
2 execve("/usr/bin/time", ["/usr/bin/time", "bash", "-c", "fork() { :; }"], 0x1 /* 9 vars */ <unfinished ...>
1 <... clone resumed>, child_tidptr=0x7f) = 2
2 <... execve resumed>) = 0
2 vfork() = 3
3 execve("/bin/missing", ["bash"], 0x1 /* 9 vars */) = -1 ENOENT (No such file or directory)
3 execve("/usr/bin/bash", ["bash", "-c", "fork() { :; }"], 0x1 /* 9 vars */) = 0
"""
    assert dict(parse_trace(trace)) == {"bash x.sh": 1, "time bash -c fork() { :; }": 1}


@pytest.mark.parametrize(("text", "expected"), [("64M", 64 << 20), ("1.5g", 3 << 29), ("512 MiB", 512 << 20)])
def test_sizes_are_read_as_people_write_them(text: str, expected: int) -> None:
    assert parse_size(text, "--sizes") == expected


@pytest.mark.parametrize("text", ["", "M", "-1M", "1P", "two"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(Error, match="is no size"):
        parse_size(text, "--sizes")


def test_quantities_have_three_digits() -> None:
    assert [duration(value) for value in (512, 46_920, 3_200_000, 2.5e9, 9e11, 7.2e12)] == [
        "512 ns",
        "46.9 µs",
        "3.20 ms",
        "2.50 s",
        "15 min",
        "2 h",
    ]
    assert size(64 << 20) == "64 MiB"


def test_a_chart_needs_two_sizes() -> None:
    assert html.chart("x", {"os.fork": [(1 << 20, 5.0)]}) == ""
    drawn = html.chart("x <y>", {"os.fork": [(1 << 20, 5e3), (1 << 30, 5e6)]})
    assert "<polyline" in drawn and "x &lt;y&gt;" in drawn


def test_data_cannot_end_the_script_element() -> None:
    page = html.page("t", "c", [], {"name": "</script><b>"})
    assert page.count("</script>") == 1


@pytest.fixture
def targets(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("targets")


def test_a_figure_is_judged_by_its_own_direction(targets: Any) -> None:
    fork, private = targets.TARGETS["fork"], targets.TARGETS["private"]
    assert [targets.Figure(fork, value).verdict for value in (20, 40, 90)] == [
        "MISSED",
        "reached",
        "aim reached",
    ]
    assert [targets.Figure(private, value).verdict for value in (2, 0.5, 0.1)] == [
        "MISSED",
        "reached",
        "aim reached",
    ]
    assert targets.Figure(private, None, "no memory").to_json()["verdict"] == "not measured"


def test_an_aim_asks_more_than_the_least(targets: Any) -> None:
    for target in targets.TARGETS.values():
        assert target.reached(target.aim, target.at_least)
        assert not target.reached(target.at_least, target.aim)
