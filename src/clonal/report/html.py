"""One self-contained HTML page: figures, tables, and charts as inline SVG. It loads nothing, runs nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any, NamedTuple

from clonal.report.axis import around, sizes, times
from clonal.report.chart import Bars, Chart, Drawing, Line, bars_svg, hue
from clonal.report.colour import PALETTE

HIDEABLE = 48  # lines of a chart that its legend can hide
WIDE, NARROW, PANEL = (1000, 400), (420, 330), (470, 300)


class Figure(NamedTuple):
    """A large figure: `before` it, if it changes; `more` in small below, `gain` the first words of that."""

    name: str
    value: str
    before: str = ""
    gain: str = ""
    more: str = ""
    good: bool = True


def document(title: str, body: str, data: Any, *, name: str, style: str, script: str = "") -> str:
    """A page with its style, its script, and its data as JSON in the element `name`."""
    embedded = json.dumps(data).replace("<", "\\u003c")
    run = f"<script>{script}</script>" if script else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{resource('base.css')}{style}</style></head><body>\n"
        f'{body}\n<script type="application/json" id="{name}">{embedded}</script>\n{run}</body></html>\n'
    )


def resource(name: str, package: str = "clonal.report") -> str:
    """A file that lies beside the code."""
    return (files(package) / name).read_text("utf-8")


def page(title: str, caption: str, parts: Iterable[str], data: Mapping[str, Any]) -> str:
    """The whole page of parts made by the functions below."""
    head = f"<h1>{escape(title)}</h1>" + (f"<p>{escape(caption)}</p>" if caption else "")
    style = resource("page.css") + _hiding()
    return document(title, f"{head}\n{''.join(parts)}", data, name="results", style=style)


def _hiding() -> str:
    """What a legend's boxes hide: no script is needed."""
    rules = (f".chart:has(.t{number}:not(:checked)) .l{number}" for number in range(HIDEABLE))
    return ",".join(rules) + "{display:none}"


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], emphasis: str | None = None
) -> str:
    """`emphasis`: the first cell of the row that stands out."""
    return _heading(title) + _table(columns, rows, emphasis)


def words(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of sentences, which are broken into lines."""
    return _heading(title) + _table(columns, rows, None, "words")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], emphasis: str | None, css: str = "") -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        f"<tr{_css('strong' if emphasis is not None and row[0] == emphasis else '')}>"
        + "".join(f"<td>{escape(text)}</td>" for text in row)
        + "</tr>\n"
        for row in rows
    )
    return f'<div class="scroll"><table{_css(css)}><tr>{head}</tr>\n{body}</table></div>\n'


def _css(name: str) -> str:
    return f' class="{name}"' if name else ""


def _heading(title: str) -> str:
    return f"<h2>{escape(title)}</h2>\n" if title else ""


def paragraph(text: str, *, warning: bool = False) -> str:
    return f'<p class="{"warning" if warning else "note"}">{escape(text)}</p>\n'


def verdict(text: str, *, good: bool) -> str:
    """The answer in a sentence."""
    return f'<p class="verdict{"" if good else " bad"}">{escape(text)}</p>\n'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """What was asked."""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in pairs)
    return f'<dl class="facts">{rows}</dl>\n'


def details(summary: str, parts: Iterable[str]) -> str:
    """What is folded away."""
    return f"<details><summary>{escape(summary)}</summary>\n{''.join(parts)}</details>\n"


def side_by_side(parts: Iterable[str]) -> str:
    """Beside each other where there is room."""
    return f'<div class="side">{"".join(f"<div>{part}</div>" for part in parts)}</div>\n'


def figures(found: Iterable[Figure]) -> str:
    """The large figures that answer the question."""
    return f'<div class="figures">{"".join(map(_figure, found))}</div>\n'


def _figure(figure: Figure) -> str:
    before = f"<s>{escape(figure.before)}</s> <em>→</em> " if figure.before else ""
    gain = f"<b{_css('' if figure.good else 'bad')}>{escape(figure.gain)}</b> " if figure.gain else ""
    return (
        f'<div class="figure"><div class="name">{escape(figure.name)}</div>'
        f'<div class="value">{before}<span>{escape(figure.value)}</span></div>'
        f'<div class="more">{gain}{escape(figure.more)}</div></div>'
    )


def lines(chart: Chart) -> str:
    """A chart for wide and for narrow windows, with a legend whose entries hide and show lines."""
    drawn = Drawing(chart, *WIDE).svg("wide") + Drawing(chart, *NARROW).svg("narrow")
    return f'{_heading(chart.title)}<figure class="chart">{_legend(chart.lines)}{drawn}</figure>\n'


def panels(charts: Sequence[Chart]) -> str:
    """Charts of the same lines, with one legend."""
    drawn = (f"{_heading(each.title)}<figure>{Drawing(each, *PANEL).svg()}</figure>" for each in charts)
    return f'<div class="chart">{_legend(charts[0].lines)}{side_by_side(drawn)}</div>\n' if charts else ""


def _legend(found: Sequence[Line]) -> str:
    return f'<div class="legend">{"".join(_key(number, line) for number, line in enumerate(found))}</div>'


def _key(number: int, line: Line) -> str:
    checked = " checked" if line.on else ""
    dashed = " dashed" * line.dashed
    return (
        f'<label class="key hue{dashed}" style="{hue(line.colour)}" title="{escape(line.hint)}">'
        f'<input type="checkbox" class="t{number}"{checked}><i></i><span>{escape(line.name)}</span></label>'
    )


def bars(chart: Bars) -> str:
    return f"{_heading(chart.title)}<figure>{bars_svg(chart, PANEL[0])}</figure>\n"


def chart(title: str, lines_of: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """Nanoseconds over bytes, both logarithmic, a line for each name; empty without two sizes."""
    drawable = {name: points for name, points in lines_of.items() if len(points) > 1}
    if not drawable:
        return ""
    points = [point for line in drawable.values() for point in line]
    xs = [float(x) for x, _ in points]
    made = [
        Line(name, line, PALETTE[number % len(PALETTE)], dots=True)
        for number, (name, line) in enumerate(drawable.items())
    ]
    across = sizes("heap", min(xs), max(xs), log=True)
    return lines(Chart(title, across, around("", (y for _, y in points), times), made))
