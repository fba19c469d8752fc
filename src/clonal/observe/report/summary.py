"""The summary: what was copied, by what, when and by whom; and what is not in these figures."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from typing import Any

from clonal.kernel.machine import sentence
from clonal.observe.analyse import Process, Recording
from clonal.observe.report.count import Row, Tally, Timeline, generations, timeline
from clonal.observe.report.names import Names
from clonal.observe.report.text import (
    BAD,
    BOLD,
    COLOURS,
    DIM,
    Line,
    amount,
    bar,
    fit,
    fit_place,
    percent,
    sparkline,
    wrapped,
)
from clonal.report.table import counted
from clonal.report.words import duration

ROWS = 8  # of a ranking; the rest is one line
PROCESSES = 12
SPARK = 20  # of a process, at most
BESIDE = 56  # columns of a process without it
FIGURES = 29  # columns of pages, bytes and share


def summary(made: Tally, width: int) -> Iterator[Line]:
    """All of it, no line wider than `width`."""
    names = Names(made.files())
    yield from _heading(made.recording, width)
    yield ()
    yield from _total(made, width)
    for title, key in _rankings(names):
        yield from _ranking(title, made.by(key), made.copied, width)
    yield from _lines(made, names, width)
    yield from _ranking("by module", made.by(lambda row: names.module(row.frame.file)), made.copied, width)
    yield from _generations(made, width)
    yield from _processes(made, width)
    yield from _besides(made, width)


def _heading(recording: Recording, width: int) -> Iterator[Line]:
    yield ((fit(shlex.join(recording.command) or "(command not known)", width).rstrip(), BOLD),)
    if "processor" in recording.machine:
        yield from wrapped(sentence(_complete(recording.machine)), width, DIM)
    processes = recording.processes.values()
    depth = len({process.generation for process in processes})
    text = plural(len(processes), "process")
    text += f", {counted(depth, 'generation')}" if depth > 1 else ""
    yield from wrapped(f"{text}; recorded by {recording.backend or '?'}; {_status(recording)}", width, DIM)
    for note in shortcomings(recording):
        yield from wrapped(note, width, BAD)


def _complete(machine: dict[str, Any]) -> dict[str, Any]:
    return {"cores": "?", "memory": 0, "kernel": "?", "python": "?", "thp": "?"} | machine


def _status(recording: Recording) -> str:
    if recording.status is None:
        return "no exit status"
    return f"exit status {recording.status}"


def shortcomings(recording: Recording) -> Iterator[str]:
    """What the recording does not have."""
    if recording.truncated:
        yield "The file is cut short or damaged: what follows the last whole chunk is not here."
    if recording.damaged:
        places = f"in {recording.damaged} places" if recording.damaged > 1 else "in one place"
        faults = f", {counted(recording.missed, 'fault')}," if recording.missed else ""
        yield f"The file is damaged {places}: what stood there{faults} is not here; all after it is."
    if not recording.command:
        yield "What the file began with is damaged: command, machine and backend are not known."
    if recording.unreadable:
        chunks = counted(recording.unreadable, "chunk")
        yield f"{chunks} could not be read: damaged, or of another version of clonal."
    if recording.status is None:
        yield "The recording has no end: clonal record was killed, or it still runs."
    yield from _unseen(recording)
    lost = sum(process.lost for process in recording.processes.values())
    if lost:
        why = "too many at once, or --limit was reached"
        yield f"{counted(lost, 'fault')} found no room and are missing: {why}."
    yield from _unwatched(recording)
    for pid in [process.pid for process in recording.processes.values() if not process.whole][:3]:
        yield f"Process {pid} closed the recording's descriptors: what it copied after that is missing."
    failed = [process for process in recording.processes.values() if process.failed]
    for process in failed[:3]:
        yield f"Process {process.pid} could not be recorded: {process.failed}"
    if len(failed) > 3:
        yield f"Nor could {len(failed) - 3} others."


def _unseen(recording: Recording) -> Iterator[str]:
    """Processes that take their own snapshot at their end, but have none."""
    if recording.backend != "snapshot" or recording.from_outside or recording.status is None:
        return
    every = recording.processes.values()
    endless = [each for each in every if each.ended is None and not (each.spawned or each.failed)]
    if endless:
        who = plural(len(endless), "process")
        why = "a snapshot is taken at the end, and what they copied since their last fork is not here"
        yield f"{who} had no end, being killed or running on: {why}."


def _unwatched(recording: Recording) -> Iterator[str]:
    """What the kernel writes for a process is no fault of its code: it is seen by userfaultfd, or not."""
    blind = [process for process in recording.processes.values() if process.unwatched]
    if blind:
        pages = sum(process.unwatched for process in blind)
        why = os.strerror(blind[0].unwatched_why)
        yield f"What system calls write to {counted(pages, 'page')} is not seen (userfaultfd: {why})."


def _total(made: Tally, width: int) -> Iterator[Line]:
    if not made.recording.processes:
        why = made.recording.empty
        yield from wrapped(f"{why[0].upper()}{why[1:]}.", width)
        return
    yield ((f"{counted(made.copied, 'page')} copied{made.only}: {amount(made.copied)}", BOLD),)
    if not made.copied:
        return
    seen = timeline(made, width - 2)
    yield ((f"  {sparkline(seen.pages)}".rstrip(), "cyan"),)
    peak = max(seen.pages)
    rate = f"peak: {counted(peak, 'page')} in {duration(seen.span)}"
    left = f"  0 … {duration(seen.end - seen.start)} since the first fork"
    if len(left) + 2 + len(rate) <= width:
        yield ((left + rate.rjust(width - len(left)), DIM),)
    else:
        yield from (((line, DIM),) for line in (left, f"  {rate}"))


def _rankings(names: Names) -> Iterator[tuple[str, Callable[[Row], str]]]:
    yield "by cause", lambda row: row.cause
    yield "by kind of memory", lambda row: row.category
    yield "by type of the object written", lambda row: row.written


def _ranking(title: str, found: list[tuple[str, int]], whole: int, width: int) -> Iterator[Line]:
    """Names with their pages, the first few."""
    if not found:
        return
    yield ()
    yield ((title, BOLD),)
    room = _name_width(width)
    for name, pages in found[:ROWS]:
        yield _ranked(fit(name, room), pages, whole, width, COLOURS.get(name, "cyan"))
    yield from _rest(found, ROWS, room, whole)


def _name_width(width: int) -> int:
    """What is left of a line beside figures and bar."""
    return max(min(width - FIGURES - 18, 44), 20)


def _ranked(name: str, pages: int, whole: int, width: int, colour: str) -> Line:
    room = width - len("  ") - FIGURES - 2
    drawn = bar(pages, whole, max(room - len(name), 0)) if room - len(name) > 3 else ""
    return (("  " + name, ""), (_figures(pages, whole), ""), ("  " + drawn if drawn else "", colour))


def _figures(pages: int, whole: int) -> str:
    return f"{pages:>10,}{amount(pages):>11}{percent(pages, whole):>8}"


def _rest(found: list[tuple[str, int]], shown: int, room: int, whole: int) -> Iterator[Line]:
    rest = found[shown:]
    if rest:
        name = fit(f"… {len(rest):,} more", room)
        yield (("  " + name + _figures(sum(pages for _, pages in rest), whole), DIM),)


def _lines(made: Tally, names: Names, width: int) -> Iterator[Line]:
    """The ranking that is looked for: a line each, the whole width for where it is."""
    found: dict[tuple[str, str], int] = {}
    for row, pages in made.rows.items():
        key = names.function(row.frame), names.place(row.frame)
        found[key] = found.get(key, 0) + pages
    if not found:
        return
    yield ()
    yield (("by line", BOLD),)
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    room = width - FIGURES - 2
    for (function, place), pages in ordered[:ROWS]:
        text = fit_place(function, place, room) if place else fit(function, room)
        yield (("  " + text, ""), (_figures(pages, made.copied), ""))
    yield from _rest([("", pages) for _, pages in ordered], ROWS, room, made.copied)


def _generations(made: Tally, width: int) -> Iterator[Line]:
    found = generations(made)
    if len(found) < 2 or not made.copied:
        return
    yield ()
    yield (("by generation", BOLD), (" (forks since the first process)", DIM))
    for generation, processes, pages in found:
        of = "1 process" if processes == 1 else f"{processes:,} processes, {pages // processes:,} pages each"
        name = fit(f"{generation}: {of}", _name_width(width))
        yield _ranked(name, pages, made.copied, width, "cyan")


def _processes(made: Tally, width: int) -> Iterator[Line]:
    processes = made.recording.processes.values()
    if not processes:
        return
    spark = max(min(SPARK, width - BESIDE), 1)
    seen = timeline(made, spark)
    most = max((max(counts) for counts in seen.by_process.values()), default=0)
    pages = {pid: sum(counts) for pid, counts in seen.by_process.items()}
    ordered = sorted(processes, key=lambda each: (-pages[each.pid], each.pid))
    yield ()
    note = " (shared: pages it shared when its recording began)"
    yield (("by process", BOLD), (note if len("by process" + note) <= width else "", DIM))
    yield ((f"{'pid':>9}{'gen':>5}{'pages':>9}{'copied':>11}{'shared':>10}  {'':{spark}}  ended", DIM),)
    for each in ordered[:PROCESSES]:
        yield _process(each, pages[each.pid], seen, most, made)
    if len(ordered) > PROCESSES:
        rest = sum(pages[each.pid] for each in ordered[PROCESSES:])
        yield ((f"  … {len(ordered) - PROCESSES:,} more, {counted(rest, 'page')}", DIM),)


def _process(each: Process, pages: int, seen: Timeline, most: int, made: Tally) -> Line:
    figures = f"{each.pid:>9}{each.generation:>5}{pages:>9,}{amount(pages):>11}{each.shared:>10,}  "
    drawn = fit(sparkline(seen.by_process[each.pid], most), len(seen.pages))
    ended = duration(each.ended - seen.start) if each.ended is not None else "no end"
    return ((figures, ""), (drawn, "cyan"), ("  " + ended, "" if each.ended is not None else BAD))


def _besides(made: Tally, width: int) -> Iterator[Line]:
    """What is not among the pages counted above, and how sure these are."""
    fresh = sum(process.fresh for process in made.recording.processes.values())
    yield ()
    if made.not_sure:
        sure = "the kernel does not show which"
        yield from wrapped(f"{made.not_sure:,} of the pages were copied or reused: {sure}.", width, DIM)
    if made.by_recording:
        yield from wrapped(f"{made.by_recording:,} more were copied by the recording itself.", width, DIM)
    if made.reused:
        who = "by the last process that had them, which copies nothing"
        yield from wrapped(f"{made.reused:,} more were written {who}.", width, DIM)
    if fresh:
        yield from wrapped(f"{fresh:,} were touched for the first time, which copies nothing.", width, DIM)
    if any(process.ended is None for process in made.recording.processes.values()):
        why = "it was killed, it runs on, or the recording ends before it"
        yield from wrapped(f"no end: {why}{_last(made.recording)}.", width, DIM)
    if made.copied:
        path = shlex.quote(made.recording.path)
        path = path if len(path) <= max(width - 50, 20) else "FILE"
        yield from wrapped(
            f"Further: clonal report {path} --source, --tree, --flamegraph FILE.html", width, DIM
        )


def _last(recording: Recording) -> str:
    """What of a process without an end is missing."""
    if recording.status is None:
        return "; its last faults are missing"
    return "; what system calls wrote for it last is missing" if recording.backend == "sigtrap" else ""


def plural(count: int, noun: str) -> str:
    """`1 process`, `2 processes`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "es")
