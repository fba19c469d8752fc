"""The program's source, each line with the pages that it copied."""

from __future__ import annotations

import ast
import os
import re
import tokenize
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from clonal.errors import Error
from clonal.observe.report.count import Tally
from clonal.observe.report.names import Names
from clonal.observe.report.text import BAD, BOLD, COLOURS, DIM, Line, fit, fit_end, percent
from clonal.report.table import counted

FUNCTIONS = 5  # shown if none is named
LEAST = 0.01  # share of all pages from which on one is shown
CONTEXT = 3  # lines around those that copied
WHOLE = 40  # a function up to so long is shown whole
SHORT = {
    "reference count": "refcount",
    "gc header": "gc header",
    "allocator metadata": "allocator",
    "interpreter internals": "interpreter",
    "data": "data",
    "unknown": "unknown",
}


@dataclass
class Lines:
    """Pages by line of one file."""

    itself: Counter[int] = field(default_factory=Counter)
    callees: Counter[int] = field(default_factory=Counter)
    causes: dict[int, Counter[str]] = field(default_factory=dict)
    functions: dict[str, set[int]] = field(default_factory=dict)  # their lines that are in a stack
    by_function: Counter[str] = field(default_factory=Counter)


class Part(NamedTuple):
    """What is shown: a function, or with the name "" a whole file."""

    file: str
    function: str
    pages: int


def by_file(made: Tally) -> dict[str, Lines]:
    """Every file that has a line in a stack."""
    found: dict[str, Lines] = {}
    for row, pages in made.rows.items():
        stack = [frame for frame in row.stack if frame.line]
        for frame in stack:
            lines = found.setdefault(frame.file, Lines())
            lines.functions.setdefault(_owner(frame.function), set()).add(frame.line)
        for file, line in {frame[1:] for frame in stack} - {frame[1:] for frame in stack[:1]}:
            found[file].callees[line] += pages
        for function, file, line in stack[:1]:
            found[file].itself[line] += pages
            found[file].by_function[_owner(function)] += pages
            found[file].causes.setdefault(line, Counter())[row.cause] += pages
    return found


def _owner(function: str) -> str:
    """The function in whose text a lambda or an expression such as `<genexpr>` stands."""
    return re.sub(r"(\.?(<locals>\.)?<(lambda|genexpr|\w+comp)>)+$", "", function) or "<module>"


def source(made: Tally, wanted: str | None, width: int) -> Iterator[Line]:
    """A function, a file, or the functions that copied most. Raises Error where there is none of the name."""
    files = by_file(made)
    names = Names(made.files())
    parts = _most(files, made.copied) if wanted is None else _named(files, wanted, names)
    return (line for part in parts for line in _part(made, files[part.file], part, names, width))


def _parts(files: dict[str, Lines]) -> list[Part]:
    """Every function, that which copied most first."""
    found = [
        Part(file, function, lines.by_function[function])
        for file, lines in files.items()
        for function in lines.functions
    ]
    return sorted(found, key=lambda part: (-part.pages, part))


def _most(files: dict[str, Lines], whole: int) -> list[Part]:
    """What copied most, but no more than can be read."""
    found = [part for part in _parts(files) if part.pages]
    return [part for part in found[:FUNCTIONS] if part.pages >= LEAST * whole or part is found[0]]


def _named(files: dict[str, Lines], wanted: str, names: Names) -> list[Part]:
    found = [part for part in _parts(files) if wanted in (part.function, part.function.rpartition(".")[2])]
    found = found or [
        Part(file, "", sum(lines.itself.values()))
        for file, lines in sorted(files.items())
        if file.endswith("/" + wanted.lstrip("./")) or os.path.abspath(wanted) == file or wanted == file
    ]
    if not found:
        there = ", ".join(f"{part.function} in {names.file(part.file)}" for part in _parts(files)[:FUNCTIONS])
        raise Error(
            f"--source {wanted}: no function or file of that name copied a page"
            + (f"; most did {there}" if there else "")
        )
    return found


def _part(made: Tally, lines: Lines, part: Part, names: Names, width: int) -> Iterator[Line]:
    text = _read(part.file)
    numbers = lines.functions.get(part.function) or set().union(*lines.functions.values())
    first, last = _extent(text, part.function, numbers)
    name = f"{part.function}  {names.file(part.file)}" if part.function else names.file(part.file)
    figure = f"  {counted(part.pages, 'page')}, {percent(part.pages, made.copied)}"
    yield ((fit_end(name, width - len(figure)), BOLD), (figure, ""))
    if note := _doubt(made, part.file, text):
        yield ((note, BAD),)
    yield ((f"{'copied':>8}{'in callees':>12}  {'why':12}{'line':>5}", DIM),)
    whole = bool(part.function and text) and last - first < WHOLE
    shown = _shown(lines, first, last, CONTEXT if text else 0, whole)
    before = first - 1
    for number in shown:
        if number != before + 1:
            yield ((f"{'⋮':>39}", DIM),)
        yield _line(lines, number, text[number - 1] if number <= len(text) else "", width)
        before = number
    yield ()


def _line(lines: Lines, number: int, text: str, width: int) -> Line:
    itself, callees = lines.itself[number], lines.callees[number]
    causes = lines.causes.get(number, Counter[str]())
    cause = min(causes, key=lambda each: (-causes[each], each), default="")
    why = SHORT.get(cause, cause) + ("+" if len(causes) > 1 else "")
    figures = f"{itself:>8,}" if itself else " " * 8
    figures += f"{callees:>12,}" if callees else " " * 12
    code = fit(text.expandtabs(4), max(width - 41, 12)).rstrip()
    style = "" if itself or callees else DIM
    return (
        (figures + "  ", BOLD),
        (f"{why:12}", COLOURS.get(cause, "")),
        (f"{number:>5}  ", DIM),
        (code, style),
    )


def _shown(lines: Lines, first: int, last: int, context: int, whole: bool) -> list[int]:
    """The numbers of the lines to show."""
    if whole:
        return list(range(first, last + 1))
    near = {
        number + by
        for number in lines.itself.keys() | lines.callees.keys()
        for by in range(-context, context + 1)
        if first <= number <= last
    }
    return sorted(number for number in near if first <= number <= last)


def _read(file: str) -> Sequence[str]:
    """Its lines; none if it is not here."""
    try:
        with tokenize.open(file) as opened:
            return opened.read().splitlines()
    except (OSError, SyntaxError, UnicodeError, ValueError):
        return ()


def _doubt(made: Tally, file: str, text: Sequence[str]) -> str:
    """Why the text may not be what was recorded."""
    if not text:
        return "its source is not here"
    if made.recording.wall and os.stat(file).st_mtime > made.recording.wall:
        return "it has changed since it was recorded: these may be other lines"
    return ""


def _extent(text: Sequence[str], function: str, numbers: set[int]) -> tuple[int, int]:
    """First and last line of a function, or of the file."""
    if not text:
        return min(numbers, default=1), max(numbers, default=1)
    end = len(text)
    if function in ("", "<module>"):
        return 1, end
    try:
        spans = list(_functions(ast.parse("\n".join(text)), ""))
    except (SyntaxError, ValueError, RecursionError):
        spans = []
    fitting = [
        (last - first, first, last)
        for name, first, last in spans
        if name == function and all(first <= number <= last for number in numbers)
    ]
    if fitting:
        return min(fitting)[1:]
    return max(min(numbers, default=1) - CONTEXT, 1), min(max(numbers, default=1) + CONTEXT, end)


def _functions(node: ast.AST, outer: str) -> Iterator[tuple[str, int, int]]:
    """Every function below a node: its qualified name, first and last line."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([child.lineno, *(each.lineno for each in child.decorator_list)])
            yield outer + child.name, first, child.end_lineno or child.lineno
            yield from _functions(child, f"{outer}{child.name}.<locals>.")
        else:
            yield from _functions(
                child, f"{outer}{child.name}." if isinstance(child, ast.ClassDef) else outer
            )
