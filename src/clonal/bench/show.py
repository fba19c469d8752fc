"""The results as tables and lines of text; on a terminal drawn by rich."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clonal.bench import words
from clonal.bench.results import MEASURES, TABLE, Results, Storm
from clonal.bench.storm import MITIGATIONS
from clonal.bench.strategies import STRATEGIES
from clonal.kernel.machine import sentence
from clonal.report.words import duration
from clonal.report.words import size as size_words

MARGIN = 100
COLUMNS = {
    "stall": "stall",
    "first": "first instr.",
    "result": "useful",
    "read_all": "read all",
    "write_5": "write 5 %",
    "write_all": "write all",
    "private": "private",
    "teardown": "teardown",
    "rate": "clones/s",
}
LEGEND = (
    "stall: the caller's, in the call; first instr., useful: from the call to the child's first instruction "
    "and to its first useful result; read all, write …: the child's time for it, faults included; private, "
    "teardown: of a child that read everything; ±: half the interquartile range"
)


@dataclass(frozen=True)
class Table:
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(results: Results) -> Iterator[Table]:
    for size in results.sizes():
        yield strategies_table(results, size)
    floor = [row for row in results.rows if not row.size]
    if floor:
        columns = ("the floor", MEASURES["stall"][0], MEASURES["rate"][0])
        rows = [(row.title, words.cell(row, "stall"), words.cell(row, "rate")) for row in floor]
        yield Table("A minimal C program", columns, rows)
    if results.storms:
        yield storm_table(results)
    if results.break_even:
        yield break_even_table(results)


def strategies_table(results: Results, size: int) -> Table:
    columns = ["strategy", *(COLUMNS[name] for name in TABLE)]
    rows = [
        [row.title, *(words.cell(row, name) for name in TABLE)] for row in results.rows if row.size == size
    ]
    return Table(
        f"Heap of {size_words(size)}: half Python objects, half raw buffers",
        columns,
        rows,
    )


def storm_table(results: Results) -> Table:
    first = results.storms[0]
    rows = [
        [
            f"{holder(storm)}: {MITIGATIONS[storm.mitigation]}",
            duration(storm.slowest.median),
            duration(storm.total.median),
        ]
        for storm in results.storms
    ]
    title = f"Storm: {first.children} children write the same {size_words(first.bytes)} at once"
    return Table(title, ("mitigation", "slowest child", "all, forks and exits included"), rows)


def holder(storm: Storm) -> str:
    """How the pages are held: sharing and vfork have no fork of a heap in them."""
    return {"shared": "shared memory", "vfork": "vfork"}.get(
        storm.mitigation, STRATEGIES[storm.strategy].title
    )


def break_even_table(results: Results) -> Table:
    shares = results.break_even[0].shares
    columns = [
        "written share",
        *(f"{share:.0%}" for share in shares),
        "os.fork wins above",
    ]
    rows = [["os.fork", *map(duration, results.break_even[0].plain), ""]]
    for even in results.break_even:
        above = "never" if even.share is None else f"{even.share:.0%}"
        rows.append([STRATEGIES[even.strategy].title, *map(duration, even.mine), above])
    return Table(
        f"Break-even, {size_words(results.break_even[0].size)}: call to reaped",
        columns,
        rows,
    )


def notes(results: Results) -> Iterator[str]:
    """Everything that is not a table, one line each."""
    yield f"Machine: {sentence(results.machine)}"
    yield LEGEND
    yield from thp_line(results)
    yield from degraded_lines(results)
    if results.article:
        yield article_line(results)
    for strategy, reason in dict.fromkeys((skipped.strategy, skipped.reason) for skipped in results.skipped):
        yield f"Skipped: {strategy}: {reason}"
    for warning in results.warnings:
        yield f"Warning: {warning}"


def thp_line(results: Results) -> Iterator[str]:
    """Which strategies ran with which setting of transparent huge pages."""
    settings: dict[str, list[str]] = {}
    for row in results.rows:
        if row.size and row.title not in settings.setdefault(row.thp, []):
            settings[row.thp].append(row.title)
    if settings:
        yield "THP: " + "; ".join(f"{thp}: {', '.join(titles)}" for thp, titles in settings.items())


def degraded_lines(results: Results) -> Iterator[str]:
    """What a freeze had to do without here: else a figure would be taken for another."""
    found = [
        (row.title, text) for row in results.rows for text in row.facts.get("freeze", {}).get("degraded", ())
    ]
    for title, text in dict.fromkeys(found):
        yield f"Degraded: {title}: {text}"


def article_line(results: Results) -> str:
    found = results.article or {}
    if "skipped" in found:
        return f"The article's script: skipped, {found['skipped']}"
    who = ", ".join(f"{count} by `{program}`" for program, count in found["by"].items())
    missing = "" if found["time_installed"] else "; /usr/bin/time is not installed, so it timed nothing"
    return (
        f"The article's script: {found['seconds'] * 1e3:.0f} ms, {found['forks']} forks "
        f"({found['counted_by']}{': ' + who if who else ''}), none of them by the function it calls fork"
        + missing
    )


def width(table: Table) -> int:
    """Characters that the table takes with nothing cut off."""
    lines = (table.columns, *table.rows)
    columns = range(len(table.columns))
    return sum(max(len(line[column]) for line in lines) + 3 for column in columns)


def show(results: Results) -> None:
    """Prints all of it. Never narrower than the tables: cut figures are worse than wrapped lines."""
    from rich.console import Console

    from clonal.report.table import table as draw

    console = Console(highlight=False)
    drawn = list(tables(results))
    console = Console(highlight=False, width=max(console.width, *map(width, drawn), MARGIN))
    for table in drawn:
        console.print(table.title, style="bold", markup=False)
        console.print(draw(table.columns, table.rows))
        console.print()
    for note in notes(results):
        console.print(note, style="yellow" if note.startswith("Warning") else None, markup=False)
