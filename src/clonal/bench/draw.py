"""The results as a picture and as a page: what of them is drawn, and in which colours."""

from __future__ import annotations

from collections.abc import Iterator

from clonal.bench import show
from clonal.bench.results import Results
from clonal.kernel.machine import sentence
from clonal.report import html
from clonal.report.plot import Bar, Line, Plot, Point
from clonal.report.words import size

TITLE = "Cloning a warm Python process"
OURS = {"image": "#7fb069", "image-immortal": "#2a9134", "clone": "#137547", "standby": "#054a29"}
COLOURS = {
    "eager": "#8d0801",
    "fork": "#d1495b",
    "fork-thp": "#edae49",
    "spawn": "#003d5b",
    "forkserver": "#30638e",
} | OURS
CHARTS = {
    "result": "From the call to a first useful result",
    "read_total": "A child that reads everything, from the call until it was reaped",
}


def plot(results: Results) -> Plot:
    floor = results.row("floor-fork", 0)
    largest = max(results.sizes(), default=0)
    return Plot(
        title=TITLE,
        caption=sentence(results.machine),
        lines_title="from the call to a first useful result",
        lines=list(lines(results, "result")),
        floor=(floor.title, floor.measures["stall"].median) if floor else None,
        bars_title=f"private memory after reading all of {size(largest)}",
        bars=list(bars(results, largest, "private")),
    )


def lines(results: Results, measure: str) -> Iterator[Line]:
    for name, colour in COLOURS.items():
        rows = [row for row in results.rows if row.strategy == name and measure in row.measures]
        found = [(row.size, row.measures[measure]) for row in rows]
        points = [Point(at, spread.median, spread.q1, spread.q3) for at, spread in found]
        if points:
            yield Line(rows[0].title, points, colour, name in OURS)


def bars(results: Results, at: int, measure: str) -> Iterator[Bar]:
    for row in results.rows:
        if row.size == at and row.strategy in COLOURS and measure in row.measures:
            yield Bar(row.title, row.measures[measure].median, COLOURS[row.strategy])


def page(results: Results) -> str:
    return html.page(TITLE, sentence(results.machine), _parts(results), results.to_json())


def _parts(results: Results) -> Iterator[str]:
    for measure, title in CHARTS.items():
        found: dict[str, list[tuple[int, float]]] = {}
        for row in results.rows:
            if row.size and measure in row.measures:
                found.setdefault(row.title, []).append((row.size, row.measures[measure].median))
        yield html.chart(title, found)
    for table in show.tables(results):
        yield html.table(table.title, table.columns, table.rows)
    for note in show.notes(results):
        yield html.paragraph(note, warning=note.startswith("Warning"))
