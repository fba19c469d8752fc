"""The drawing of charts: ticks are round, lines stay within their axes, colours are for both papers."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from clonal.report import html
from clonal.report.axis import Axis, around, sizes, times
from clonal.report.chart import Bar, Bars, Chart, Drawing, Line, Mark, bars_svg, split
from clonal.report.colour import BLUE, GREEN, PALETTE, RED, ramp

MS = 1_000_000


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        (sizes("", 0, 26 << 30), ["0", "5 GiB", "10 GiB", "15 GiB", "20 GiB", "25 GiB"]),
        (sizes("", 0, 900 << 20), ["0", "200 MiB", "400 MiB", "600 MiB", "800 MiB"]),
        (times("", 0, 70e9), ["0", "20 s", "40 s", "60 s"]),
        (times("", 1e4, 1e8, log=True), ["10 µs", "100 µs", "1 ms", "10 ms", "100 ms"]),
        (times("", 1e6, 1e7, log=True), ["1 ms", "2 ms", "5 ms", "10 ms"]),
        (Axis("", 1, 50, named={1: "1%", 50: "50%"}), ["1%", "50%"]),
    ],
)
def test_ticks_are_round_values(axis: Axis, expected: list[str]) -> None:
    assert list(axis.ticks(6).values()) == expected


def test_an_axis_is_logarithmic_where_values_span_decades() -> None:
    assert not around("", [2e6, 9e6], times).log
    found = around("", [2e6, 9e7, 0.0], times)
    assert found.log and (found.low, found.high) == pytest.approx((1e6, 1e8))
    assert around("", [0.0], times).high > 0


@pytest.mark.parametrize("make", [times, sizes])
@pytest.mark.parametrize("values", [[3.0], [1.0, 1e12], [5.0, 5.0], [1e9, 2e9]])
def test_every_value_lies_within_its_axis(make: object, values: list[float]) -> None:
    axis = around("", values, make)  # type: ignore[arg-type]
    assert all(0 <= axis.share(value) <= 1 for value in values)


def chart(until: float | None = None) -> Chart:
    points = [(1.0 * MS, 1.0), (2.0 * MS, 2.0), (3.0 * MS, 30.0)]
    mark = Mark(2.5 * MS, 16.0, "ends here") if until else None
    lines = [
        Line("a <b>", points, RED, band=[(x, y, y + 1) for x, y in points], until=until, mark=mark),
        Line("other", points, GREEN, on=False, dots=True),
    ]
    return Chart("One & all", times("t", 0, 3 * MS), Axis("", 0, 10), lines, (8.0, "the limit"))


def test_a_line_is_pale_after_its_end() -> None:
    line = chart(2.5 * MS).lines[0]
    before, after = split(line)
    assert before[-1] == after[0] == (2.5 * MS, 16.0)
    assert [x for x, _ in before] == [MS, 2 * MS, 2.5 * MS]
    assert split(chart().lines[0])[1] == []


@pytest.mark.parametrize("width", [1000, 420])
def test_a_chart_is_drawn_within_its_picture(width: int) -> None:
    drawn = Drawing(chart(2.5 * MS), width, 330).svg()
    ElementTree.fromstring(drawn)
    places = [tuple(map(float, pair.split(","))) for pair in re.findall(r"[\d.-]+,[\d.-]+", drawn)]
    assert places and all(0 <= x <= width and 0 <= y <= 330 for x, y in places)
    assert "ends here" in drawn and "the limit" in drawn and "a &lt;b&gt;" in drawn


def test_a_limit_above_the_chart_is_named_with_an_arrow() -> None:
    high = Chart("", times("t", 0, 1), Axis("", 0, 10), [], (800.0, "RAM"))
    drawn = Drawing(high, 420, 330).svg()
    assert "RAM ↑" in drawn and '<line class="limit"' not in drawn


def test_marks_that_lie_close_are_written_below_each_other() -> None:
    lines = [
        Line(name, [(0.0, 0.0), (10.0, 9.0)], BLUE, mark=Mark(x, 5.0, f"ends {name}"))
        for name, x in (("a", 5.0), ("b", 5.1), ("c", 5.2))
    ]
    drawn = Drawing(Chart("", times("t", 0, 10), Axis("", 0, 10), lines), 1000, 400).svg()
    heights = re.findall(r'y="([\d.]+)">ends', drawn)
    assert len(set(heights)) == 3


def test_bars_say_their_values() -> None:
    found = [Bar("slow", 9e6, RED), Bar("fast", 2e4, GREEN, strong=True), Bar("nothing", 0, BLUE)]
    drawn = bars_svg(Bars("stalls", around("log", (bar.value for bar in found), times), found), 470)
    root = ElementTree.fromstring(drawn)
    wide = [float(rect.get("width", "")) for rect in root.iter("rect")]
    assert wide[0] > wide[1] > wide[2] == 0
    assert "9 ms" in drawn and "20 µs" in drawn


def test_a_legend_can_hide_each_line() -> None:
    drawn = html.lines(chart())
    assert re.findall(r'class="t(\d)"( checked)?', drawn) == [("0", " checked"), ("1", "")]
    page = html.page("t", "", [drawn], {})
    assert ".chart:has(.t1:not(:checked)) .l1" in page and "<script>" not in page


def test_every_colour_is_for_light_and_for_dark_paper() -> None:
    for colour in (*PALETTE, *ramp(12)):
        light, dark = (sum(bytes.fromhex(each[1:])) for each in colour)
        assert light < dark
    assert len(set(ramp(12))) == 12
