"""The results on a terminal: with rich where it is installed, else as plain columns."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO

from clonal.bench import words
from clonal.bench.machine import sentence
from clonal.bench.results import MEASURES, TABLE, Results, Storm
from clonal.bench.storm import MITIGATIONS
from clonal.bench.strategies import STRATEGIES
from clonal.report.words import duration
from clonal.report.words import size as size_words


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
    columns = ["strategy", *(MEASURES[name][0] for name in TABLE)]
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
    rows = [["os.fork", *map(words.duration, results.break_even[0].plain), ""]]
    for even in results.break_even:
        above = "never" if even.share is None else f"{even.share:.0%}"
        rows.append([STRATEGIES[even.strategy].title, *map(words.duration, even.mine), above])
    return Table(
        f"Break-even, {size_words(results.break_even[0].size)}: call to reaped",
        columns,
        rows,
    )


def notes(results: Results) -> Iterator[str]:
    """Everything that is not a table, one line each."""
    yield f"Machine: {sentence(results.machine)}"
    yield from thp_line(results)
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


def show(results: Results, file: TextIO = sys.stdout) -> None:
    try:
        from rich.console import Console
    except ImportError:
        _show_plain(results, file)
    else:
        _show_rich(results, Console(file=file, width=None if file.isatty() else 200))


def _show_plain(results: Results, file: TextIO) -> None:
    for table in tables(results):
        lines = [list(table.columns), *map(list, table.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(table.columns))]
        print(table.title, file=file)
        for line in lines:
            print(
                "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip(),
                file=file,
            )
        print(file=file)
    for note in notes(results):
        print(note, file=file)


def _show_rich(results: Results, console: object) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable

    assert isinstance(console, Console)
    for table in tables(results):
        drawn = RichTable(title=table.title, title_justify="left")
        for number, column in enumerate(table.columns):
            drawn.add_column(column, justify="right" if number else "left", no_wrap=not number)
        for line in table.rows:
            drawn.add_row(*line)
        console.print(drawn)
    for note in notes(results):
        console.print(
            note,
            style="yellow" if note.startswith("Warning") else None,
            markup=False,
            highlight=False,
        )
