"""Findings by the cause of copies: reference counts, gc headers, the allocator; and tables that all write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from clonal.kernel.procfs import PAGE
from clonal.observe.doctor.copies import ALLOCATED, OBJECTS, SOURCE, Copies, Rows
from clonal.observe.doctor.finding import Fact, Finding, Remedy
from clonal.observe.doctor.framework import before_fork
from clonal.observe.doctor.predicted import less_own
from clonal.observe.report.count import row_of
from clonal.report.words import size

BUFFERS = "large buffers"


class Cause(NamedTuple):
    """`saved` bytes of the copies for it, which make up a finding if they are `enough`."""

    name: str
    rows: Rows
    saved: int
    why: str
    enough: bool


def by_cause(copies: Copies) -> Iterator[Finding]:
    """An image of immortal objects saves what all three causes copy. For headers of the collector alone there
    is less to do: frozen objects are in no generation (Modules/gcmodule.c: gc_freeze)."""
    counts, headers, blocks = every = _causes(copies)
    found = [each for each in every if each.enough]
    if found == [headers]:
        remedy = before_fork(copies.framework, "gc", "gc.freeze()")
        yield Finding(headers.name, _evidence(copies, found), remedy, headers.saved)
    elif found:
        first = max((each for each in (counts, blocks) if each.enough), key=lambda each: each.saved)
        told = sorted(found, key=lambda each: each is not first)
        remedy = before_fork(copies.framework, "clonal", "clonal.freeze()")
        if first is counts:
            remedy = _on_3_12(copies, remedy)
        saved = sum(each.saved for each in every)
        also = tuple(each.name for each in told[1:])
        yield Finding(first.name, _evidence(copies, told), remedy, saved, also=also)


def _causes(copies: Copies) -> tuple[Cause, Cause, Cause]:
    def cause(name: str, rows: Rows, why: str, without: int = 0) -> Cause:
        saved = (rows.total() - without) * PAGE
        return Cause(name, rows, saved, why, copies.enough(saved))

    counts = copies.of("reference count")
    return (
        cause("reference-counts", counts, "for reference counts", _of_code(counts)),
        cause("gc-headers", copies.of("gc header"), "for headers of the collector"),
        cause("allocator", copies.of(ALLOCATED, OBJECTS), "for headers of pools and reused blocks"),
    )


def _of_code(rows: Rows) -> int:
    """Code that runs writes to its own instructions: they are specialised (PEP 659)."""
    return sum(pages for row, pages in rows.items() if row.type == "code")


def _evidence(copies: Copies, causes: Sequence[Cause]) -> tuple[Fact, ...]:
    found = [fact for each in causes for fact in (copies.amount(each.rows, each.why), copies.top(each.rows))]
    code = sum(_of_code(each.rows) for each in causes if each.name == "reference-counts")
    if code:
        text = f"{code:,} of them of code, which is copied all the same: it counts how often it runs"
        found.append(Fact(text, SOURCE))
    return tuple(found)


def _on_3_12(copies: Copies, remedy: Remedy) -> Remedy:
    """Objects can be immortal since CPython 3.12 (PEP 683)."""
    version = str(copies.recording.machine.get("python", "")).split()[-1:] or ["3.12"]
    numbers = version[0].split(".")
    if len(numbers) > 1 and numbers[0] == "3" and numbers[1].isdigit() and int(numbers[1]) < 12:
        return Remedy(f"{remedy.where}, with CPython 3.12 or later", remedy.lines)
    return remedy


def objects(copies: Copies) -> Iterator[Finding]:
    """Snapshots of the page map have no causes."""
    found = copies.of("unknown", OBJECTS)
    saved = less_own(found.total() * PAGE, copies.forked)
    if copies.recording.backend == "snapshot" and copies.enough(saved):
        remedy = before_fork(copies.framework, "clonal", "clonal.freeze()")
        most = Fact("at most so much is saved: a snapshot does not tell why they were copied", SOURCE)
        yield Finding("objects-copied", (copies.amount(found, "of Python objects"), most), remedy, saved)


def shared_tables(copies: Copies) -> Iterator[Finding]:
    """Pages of large buffers that several processes wrote to, each in a copy of its own."""
    of_several, table = _of_several(copies)
    saved = of_several.total() * PAGE
    if copies.enough(saved):
        pids = {row.pid for row in of_several}
        evidence = (
            copies.amount(of_several, f"in large buffers, the same {table:,} in {len(pids)} processes"),
            copies.top(of_several),
            Fact(f"each of them holds up to {size(table * PAGE)} of its own", SOURCE),
        )
        lines = ("import clonal", "table = clonal.shared_array(shape, dtype)  # if all are to see one table")
        yield Finding("shared-tables", evidence, Remedy("where the table is made", lines), saved)


def _of_several(copies: Copies) -> tuple[Rows, int]:
    """The rows of such pages, and how many pages there are: each counts once, whoever copied it."""
    wanted, made = copies.of("data", BUFFERS), copies.recording.copies
    rows = {number: row for number, kind in copies.made.kinds.items() if (row := row_of(kind)) in wanted}
    ranks = {pid: rank for rank, pid in enumerate({row.pid for row in rows.values()})}
    rank = np.full(len(made.kinds), -1)
    rank[list(rows)] = [ranks[row.pid] for row in rows.values()]
    kinds = np.frombuffer(made.what, np.uint32)
    at = np.flatnonzero(rank[kinds] >= 0)
    pages = np.frombuffer(made.addresses, np.uint64)[at].astype(np.int64) // PAGE
    once = np.unique(pages * len(ranks) + rank[kinds[at]]) // max(len(ranks), 1)
    table, processes = np.unique(once, return_counts=True)
    table = table[processes > 1]
    found = Rows()
    for number, count in enumerate(np.bincount(kinds[at[np.isin(pages, table)]]).tolist()):
        if count:
            found[rows[number]] += count
    return found, len(table)
