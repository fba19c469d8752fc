"""The copies of a recording, each given to the one remedy that saves it."""

from __future__ import annotations

import functools
import os
from collections import Counter
from dataclasses import dataclass, field

from clonal.kernel.procfs import PAGE
from clonal.observe.analyse import Frame, Process, Recording, Stack
from clonal.observe.doctor.finding import WORTH, Fact
from clonal.observe.doctor.framework import Framework, recognise
from clonal.observe.report.count import Row, Tally, tally
from clonal.observe.report.names import Names
from clonal.report.words import size

IMPORT = "<frozen importlib"
ALLOCATED = "allocator metadata"
SOURCE = "recording"
OBJECTS, OF_OBJECTS = "python objects", ("reference count", "gc header", "data")
# Functions of CPython that write to an object first: of Objects/object.c, Python/gc.c and single types.
MAKERS = (
    "_Py_NewReference",
    "PyType_GenericAlloc",
    "_PyType_Alloc",
    "_PyObject_New",
    "_PyObject_GC_New",
    "PyObject_Init",
    "PyUnicode_New",
    "PyBytes_FromStringAndSize",
    "PyLong_From",
    "_PyLong_",
    "PyFloat_From",
    "PyList_New",
    "PyTuple_New",
    "PyFunction_New",
)
Rows = Counter[Row]  # with their pages


@dataclass
class Copies:
    """`forked`: how many processes were; no row is in two of `execs`, `imports` and `causes`."""

    made: Tally
    framework: Framework
    forked: int = 0
    execs: Rows = field(default_factory=Counter)
    imports: Rows = field(default_factory=Counter)
    causes: dict[str, Rows] = field(default_factory=dict)

    @property
    def recording(self) -> Recording:
        return self.made.recording

    @functools.cached_property
    def names(self) -> Names:
        return Names({frame.file for row in self.made.rows for frame in row.stack[:1]})

    def of(self, cause: str, category: str = "") -> Rows:
        """Those of a cause, and a kind of memory if one is given."""
        found = self.causes.get(cause, Rows())
        return Rows({row: pages for row, pages in found.items() if category in ("", row.category)})

    def enough(self, saved: int) -> bool:
        """Whether so many bytes are worth a line."""
        return self.forked > 0 and saved >= WORTH * self.forked

    def amount(self, rows: Rows, why: str) -> Fact:
        """How many of all the pages."""
        pages = rows.total()
        return Fact(f"{pages:,} of {self.made.copied:,} pages copied ({size(pages * PAGE)}) {why}", SOURCE)

    def top(self, rows: Rows) -> Fact:
        """The line that copied most of them."""
        frames, types = Counter[Frame](), Counter[str]()
        for row, pages in rows.items():
            frames[row.frame] += pages
            types[row.type] += pages
        del types[""]
        frame, pages = frames.most_common(1)[0]
        kinds = ", ".join(kind for kind, _ in types.most_common(3))
        label = self.names.label(frame)
        return Fact(
            f"{pages:,} of them at {label}" + (f", of objects of type {kinds}" if kinds else ""), SOURCE
        )


def sort_out(recording: Recording) -> Copies:
    """First what a child copied that only executes, then what an import did, then by cause."""
    made = tally(recording)
    found = Copies(made, _framework(made))
    only = executing(recording)
    found.forked = sum(each.generation > 0 for each in recording.processes.values())
    for row, pages in made.rows.items():
        if row.pid in only:
            found.execs[row] = pages
        elif recording.processes[row.pid].generation and below_import(row):
            found.imports[row] = pages
        else:
            found.causes.setdefault(cause_of(row), Rows())[row] = pages
    return found


def _framework(made: Tally) -> Framework:
    """By what forked processes run in, not by what they import."""
    processes = made.recording.processes
    commands = [made.recording.command, *(each.argv for each in processes.values())]
    stacks = {row.stack for row in made.rows if processes[row.pid].generation}
    return recognise(commands, {frame.file for stack in stacks for frame in outside(stack)})


def outside(stack: Stack) -> Stack:
    """The frames outside all imports."""
    return stack[1 + max((at for at, each in enumerate(stack) if each.file.startswith(IMPORT)), default=-1) :]


def below_import(row: Row) -> bool:
    return any(frame.file.startswith(IMPORT) for frame in row.stack)


def cause_of(row: Row) -> str:
    """A maker of objects, and the C library where it clears one (it knows no counts), begin a new one in a
    block that was free: nothing that was there at the fork is looked at."""
    if row.category != OBJECTS or row.cause not in OF_OBJECTS:
        return row.cause
    cleared = row.cause == "reference count" and os.path.basename(row.library).startswith(("libc.", "libc-"))
    return ALLOCATED if cleared or row.symbol.startswith(MAKERS) else row.cause


def executing(recording: Recording) -> set[int]:
    """Children that did nothing but execute a program, and parents that forked no others."""
    children = {each.pid for each in recording.processes.values() if each.generation}
    found = {pid for pid in children if _executes(recording.processes[pid])}
    for each in recording.processes.values():
        own = {pid for pid in children if recording.processes[pid].parent == each.pid}
        if own and own <= found:
            found.add(each.pid)
    return found


def _executes(process: Process) -> bool:
    return process.spawned or bool(process.executes)
