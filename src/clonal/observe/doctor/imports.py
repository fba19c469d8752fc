"""Modules that forked processes import, each for itself."""

from __future__ import annotations

import linecache
import re
from collections import Counter
from collections.abc import Iterator

from clonal.kernel.procfs import PAGE
from clonal.observe.analyse import Frame, Stack
from clonal.observe.doctor.copies import IMPORT, SOURCE, Copies, Rows, outside
from clonal.observe.doctor.finding import Fact, Finding, Remedy
from clonal.observe.doctor.framework import CONFIGURATION, Framework, at_start
from clonal.observe.report.names import FROZEN, INSTALLED, STANDARD, Names
from clonal.report.words import size

WHOLE = re.compile(r"(import [\w., ]+|from \w[\w.]* import [\w, ]+)$")  # not `from . import`
BEGUN = re.compile(r"from (?P<module>\w[\w.]*) import ")
LINES, PART = 4, 0.05  # of the pages, for a line of a library
LOADS_THE_APP = ("import_app", "load_wsgiapp")  # gunicorn/util.py, gunicorn/app/wsgiapp.py


def imports(copies: Copies) -> Iterator[Finding]:
    """Loaded before the fork they are shared."""
    loading = Rows({row: pages for row, pages in copies.imports.items() if _loads_the_app(row.stack)})
    preload = copies.framework is Framework.GUNICORN and bool(loading)
    found = loading if preload else copies.imports
    saved = found.total() * PAGE
    if not found or not copies.enough(saved):
        return
    by_stack, places = Counter[Stack](), Counter[str]()
    for row, pages in found.items():
        by_stack[row.stack] += pages
        places[copies.names.label(statement(row.stack))] += pages
    pids = {row.pid for row in found}
    evidence = (
        copies.amount(found, f"below import statements, in {len(pids)} of {copies.forked} forked processes"),
        Fact(f"most below {', '.join(place for place, _ in places.most_common(3))}", SOURCE),
    )
    if preload:
        remedy = Remedy(CONFIGURATION, ("preload_app = True",))
    else:
        lines = [line for line, _ in _lines(by_stack, copies.names).most_common(LINES)]
        remedy = at_start(copies.framework, lines)
    if not remedy.lines:  # none of the statements can be read here
        return
    fresh = sum(each.fresh for each in copies.recording.processes.values() if each.pid in pids) * PAGE
    besides = f"of the {size(fresh)} that these processes touched first, what the modules took comes on top"
    yield Finding("imports", evidence, remedy, saved, besides)


def _loads_the_app(stack: Stack) -> bool:
    return any(frame.function in LOADS_THE_APP for frame in stack)


def _lines(by_stack: Counter[Stack], names: Names) -> Counter[str]:
    """Import statements by pages: the program's own, also those that others left little to copy; or if there
    are none, those of libraries, of which many load nothing new."""
    all_, own = Counter[str](), Counter[str]()
    for stack, pages in by_stack.items():
        if line := line_of(stack, names):
            all_[line] += pages
            own[line] += 0 if is_installed(statement(stack).file) else pages
    least = PART * sum(by_stack.values())
    return +own or Counter({line: pages for line, pages in all_.items() if pages >= least})


def line_of(stack: Stack, names: Names) -> str:
    """The import statement of the program that led here; "" if it is not known."""
    frame = statement(stack)
    text = linecache.getline(frame.file, frame.line).partition("#")[0].strip().rstrip(";")
    if WHOLE.match(text):
        return text
    if begun := BEGUN.match(text):
        return f"import {begun['module']}"
    module = _first_module(stack)
    return f"import {names.module(module)}" if module else ""


def is_installed(file: str) -> bool:
    """Whether it belongs to Python or to a library."""
    return bool(INSTALLED.match(file) or STANDARD.match(file) or FROZEN.match(file))


def statement(stack: Stack) -> Frame:
    """The innermost line outside all imports."""
    callers = outside(stack)
    by_program = [frame for frame in callers if "/importlib/" not in frame.file]
    return by_program[0] if by_program else stack[-1 - len(callers)]


def _first_module(stack: Stack) -> str:
    """The file of the outermost module that was being loaded."""
    below = stack[: len(stack) - len(outside(stack)) - 1]
    inner = [f for f in below if f.function == "<module>" and not f.file.startswith(IMPORT)]
    return inner[-1].file if inner else ""
