"""Modules that forked processes import, each for itself."""

from __future__ import annotations

import linecache
import re
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from clonal.kernel.procfs import PAGE
from clonal.observe.copies import OUTER, Frame, Stack
from clonal.observe.doctor.copies import ALLOCATED, IMPORT, SOURCE, Copies, Rows, cause_of, outside
from clonal.observe.doctor.finding import Fact, Finding, Remedy, forked
from clonal.observe.doctor.framework import CONFIGURATION, Framework, at_start
from clonal.observe.report.names import FROZEN, LIBRARIES, Names
from clonal.report.words import size

WHOLE = re.compile(r"(import [\w., ]+|from \w[\w.]* import [\w, ]+)$")  # not `from . import`
BEGUN = re.compile(r"from (?P<module>\w[\w.]*) import ")
MOST, WIDTH = 60, 90  # statements, and columns of a line
LOADS = ("exec_module", "create_module")  # importlib/_bootstrap_external.py: a module that was found runs
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
        copies.amount(found, f"below import statements, in {len(pids)} of {forked(copies.forked)}"),
        Fact(f"most below {', '.join(place for place, _ in places.most_common(3))}", SOURCE),
        Fact(f"{_in_free_blocks(found):,} of them in blocks that were free: what else the program makes may "
             "copy these in their place", SOURCE),
    )  # fmt: skip
    if preload:
        remedy = Remedy(CONFIGURATION, ("preload_app = True",))
    else:
        remedy = at_start(copies.framework, _joined(_statements(by_stack, copies.names)))
    if not remedy.lines:  # none of the statements can be read here
        return
    fresh = sum(each.fresh for each in copies.recording.processes.values() if each.pid in pids) * PAGE
    besides = f"of the {size(fresh)} that these processes touched first, what the modules took comes on top"
    yield Finding("imports", evidence, remedy, saved, besides)


def _in_free_blocks(rows: Rows) -> int:
    return sum(pages for row, pages in rows.items() if cause_of(row) == ALLOCATED)


def _loads_the_app(stack: Stack) -> bool:
    return any(frame.function in LOADS_THE_APP for frame in stack)


def _statements(by_stack: Counter[Stack], names: Names) -> list[str]:
    """Import statements that loaded something: the program's own first, then those that libraries run later;
    each by pages. All of them: what one is spared, the next copies in its place."""
    found, own = Counter[str](), set[str]()
    loaded = [stack for stack in by_stack if _has_loaded(stack)]
    for stack in loaded:
        if line := line_of(stack, names):
            found[line] += by_stack[stack]
            if is_own(statement(stack)):
                own.add(line)
    return sorted(found, key=lambda line: (line not in own, -found[line]))[:MOST]


def _has_loaded(stack: Stack) -> bool:
    """Whether a module was being loaded, not merely looked for."""
    return any(frame.function.rpartition(".")[2] in LOADS for frame in stack if frame.file.startswith(IMPORT))


def _joined(statements: list[str]) -> list[str]:
    """Few lines of them; a package is loaded with its modules."""
    modules: dict[str, None] = {}
    others = []
    for line in statements:
        if line.startswith("import "):
            modules |= dict.fromkeys(name.split()[0] for name in line.removeprefix("import ").split(","))
        else:
            others.append(line)
    told = [each for each in modules if not any(other.startswith(f"{each}.") for other in modules)]
    begun = textwrap.wrap(", ".join(told), WIDTH, break_long_words=False, break_on_hyphens=False)
    return [*(f"import {line.rstrip(',')}" for line in begun), *others]


def line_of(stack: Stack, names: Names) -> str:
    """The import statement of the program that led here, or the module that a library loads; "" if it is not
    known."""
    frame = statement(stack)
    text = ""
    if is_own(frame):
        text = linecache.getline(frame.file, frame.line).partition("#")[0].strip().rstrip(";")
    if WHOLE.match(text):
        return text
    if begun := BEGUN.match(text):
        return f"import {begun['module']}"
    module = _first_module(stack)
    return f"import {_module(module, names)}" if module else ""


def _module(file: str, names: Names) -> str:
    """Its name: of the program's own from the innermost folder on that is no package."""
    if is_installed(file) or not file.endswith(".py"):
        return names.module(file)
    path = Path(file)
    parts = [path.stem] if path.stem != "__init__" else []
    while (path := path.parent).joinpath("__init__.py").exists():
        parts.insert(0, path.name)
    return ".".join(parts)


def is_own(frame: Frame) -> bool:
    """Whether it is a line of the program's own."""
    return frame != OUTER and not is_installed(frame.file)


def is_installed(file: str) -> bool:
    """Whether it belongs to Python or to a library."""
    return any(pattern.match(file) for pattern in (*LIBRARIES, FROZEN))


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
