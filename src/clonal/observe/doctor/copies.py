"""The copies of a recording, each given to the one remedy that saves it."""

from __future__ import annotations

import functools
import os
from collections import Counter
from dataclasses import dataclass, field

from clonal.kernel.procfs import PAGE
from clonal.observe.analyse import Copy, Process, Recording
from clonal.observe.doctor.finding import WORTH, Fact
from clonal.observe.doctor.framework import Framework, recognise
from clonal.observe.report.names import Names
from clonal.report.words import size

IMPORT = "<frozen importlib"
ALLOCATED = "allocator metadata"


@dataclass
class Copies:
    """`forked`: how many processes were; the lists share no copy."""

    recording: Recording
    framework: Framework
    forked: int = 0
    all: int = 0
    execs: list[Copy] = field(default_factory=list)
    imports: list[Copy] = field(default_factory=list)
    causes: dict[str, list[Copy]] = field(default_factory=dict)

    @functools.cached_property
    def names(self) -> Names:
        return Names({frame.file for copy in self.recording.by_program for frame in copy.stack[:1]})

    def enough(self, saved: int) -> bool:
        """Whether so many bytes are worth a line."""
        return self.forked > 0 and saved >= WORTH * self.forked

    def amount(self, copies: list[Copy], why: str) -> Fact:
        """How many of all the pages."""
        bytes_ = len(copies) * PAGE
        return Fact(f"{len(copies):,} of {self.all:,} pages copied ({size(bytes_)}) {why}", self.source)

    def top(self, copies: list[Copy]) -> Fact:
        """The line that copied most of them."""
        frame, pages = Counter(copy.frame for copy in copies).most_common(1)[0]
        kinds = [kind for kind, _ in Counter(copy.type for copy in copies if copy.type).most_common(3)]
        types = f", of objects of type {', '.join(kinds)}" if kinds else ""
        return Fact(f"{pages:,} of them at {self.names.label(frame)}{types}", self.source)

    @property
    def source(self) -> str:
        return "recording"


def sort_out(recording: Recording) -> Copies:
    """First what a child copied that only executes, then what an import did, then by cause."""
    files = {frame.file for copy in recording.copies for frame in copy.stack}
    words = [*recording.command, *(word for each in recording.processes.values() for word in each.argv)]
    found = Copies(recording, recognise(words, files))
    only = executing(recording)
    found.forked = sum(each.generation > 0 for each in recording.processes.values())
    for copy in recording.by_program:
        found.all += 1
        process = recording.processes[copy.pid]
        if copy.pid in only:
            found.execs.append(copy)
        elif process.generation and any(frame.file.startswith(IMPORT) for frame in copy.stack):
            found.imports.append(copy)
        else:
            found.causes.setdefault(_cause(copy), []).append(copy)
    return found


def _cause(copy: Copy) -> str:
    """The C library knows no counts: what it writes to one begins a new object in a block that was free."""
    if copy.cause == "reference count" and os.path.basename(copy.library).startswith(("libc.", "libc-")):
        return ALLOCATED
    return copy.cause


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
