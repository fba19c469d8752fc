"""Findings by the cause of copies: reference counts, gc headers, the allocator; and tables that all write."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from clonal.kernel.procfs import PAGE
from clonal.observe.doctor.copies import ALLOCATED, Copies
from clonal.observe.doctor.finding import Fact, Finding, Remedy
from clonal.observe.doctor.framework import before_fork
from clonal.observe.doctor.predicted import less_own
from clonal.report.words import size


def reference_counts(copies: Copies) -> Iterator[Finding]:
    """Immortal objects have no counts to write (PEP 683). Code that runs writes to its own instructions: they
    are specialised (PEP 659)."""
    found = copies.causes.get("reference count", [])
    code = [copy for copy in found if copy.type == "code"]
    saved = (len(found) - len(code)) * PAGE
    if copies.enough(saved):
        remedy = before_fork(copies.framework, "clonal", "clonal.freeze()")
        evidence = [copies.amount(found, "for reference counts"), copies.top(found)]
        if code:
            text = f"{len(code):,} of them of code, which is copied all the same: it counts how often it runs"
            evidence.append(Fact(text, copies.source))
        yield Finding("reference-counts", tuple(evidence), _on_3_12(copies, remedy), saved)


def _on_3_12(copies: Copies, remedy: Remedy) -> Remedy:
    """Objects can be immortal since CPython 3.12."""
    version = str(copies.recording.machine.get("python", "")).split()[-1:] or ["3.12"]
    numbers = version[0].split(".")
    if len(numbers) > 1 and numbers[0] == "3" and numbers[1].isdigit() and int(numbers[1]) < 12:
        return Remedy(f"{remedy.where}, with CPython 3.12 or later", remedy.lines)
    return remedy


def gc_headers(copies: Copies) -> Iterator[Finding]:
    """Frozen objects are in no generation (Modules/gcmodule.c: gc_freeze)."""
    found = copies.causes.get("gc header", [])
    saved = len(found) * PAGE
    if copies.enough(saved):
        remedy = before_fork(copies.framework, "gc", "gc.freeze()")
        evidence = (copies.amount(found, "for headers of the collector"), copies.top(found))
        yield Finding("gc-headers", evidence, remedy, saved)


def allocator(copies: Copies) -> Iterator[Finding]:
    """freeze() takes half-used pools out of use, so that new objects go to fresh pages."""
    found = [copy for copy in copies.causes.get(ALLOCATED, []) if copy.category == "python objects"]
    saved = len(found) * PAGE
    if copies.enough(saved):
        remedy = before_fork(copies.framework, "clonal", "clonal.freeze()")
        evidence = (copies.amount(found, "for headers of pools and reused blocks"), copies.top(found))
        yield Finding("allocator", evidence, remedy, saved)


def objects(copies: Copies) -> Iterator[Finding]:
    """Snapshots of the page map have no causes."""
    found = [copy for copy in copies.causes.get("unknown", []) if copy.category == "python objects"]
    saved = less_own(len(found) * PAGE, copies.forked)
    if copies.recording.backend == "snapshot" and copies.enough(saved):
        remedy = before_fork(copies.framework, "clonal", "clonal.freeze()")
        most = Fact("at most so much is saved: a snapshot does not tell why they were copied", copies.source)
        yield Finding("objects-copied", (copies.amount(found, "of Python objects"), most), remedy, saved)


def shared_tables(copies: Copies) -> Iterator[Finding]:
    """Pages of large buffers that several processes wrote to, each in a copy of its own."""
    by_page: dict[int, set[int]] = defaultdict(set)
    found = [copy for copy in copies.causes.get("data", []) if copy.category == "large buffers"]
    for copy in found:
        by_page[copy.address // PAGE].add(copy.pid)
    of_several = [copy for copy in found if len(by_page[copy.address // PAGE]) > 1]
    saved = len(of_several) * PAGE
    if copies.enough(saved):
        pids = {copy.pid for copy in of_several}
        pages = {copy.address // PAGE for copy in of_several}
        evidence = (
            copies.amount(of_several, f"in large buffers, the same {len(pages):,} in {len(pids)} processes"),
            copies.top(of_several),
            Fact(f"each of them holds up to {size(len(pages) * PAGE)} of its own", copies.source),
        )
        lines = ("import clonal", "table = clonal.shared_array(shape, dtype)  # if all are to see one table")
        yield Finding("shared-tables", evidence, Remedy("where the table is made", lines), saved)
