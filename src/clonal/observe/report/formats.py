"""The recording for other tools: folded stacks, speedscope, JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import clonal
from clonal.observe.analyse import UNKNOWN, Frame, What
from clonal.observe.report.count import PAGE, Tally, generations, row_of, timeline
from clonal.observe.report.names import Names
from clonal.observe.report.tree import frames
from clonal.report.words import printable

SPANS = 100  # of the timeline
VERSION = 1  # of the JSON, whose fields docs/report.md lists
SPEEDSCOPE = "https://www.speedscope.app/file-format-schema.json"


def folded(made: Tally) -> Iterator[str]:
    """A line for each stack, as flamegraph.pl reads them: `main (app.py:3);f (app.py:9);[data] 12`."""
    names = Names(made.files())
    found: Counter[str] = Counter()
    for row, pages in made.rows.items():
        labels = [_plain(names.label(frame)) for frame in frames(row)]
        found[";".join([*labels, f"[{row.cause}]"])] += pages
    return (f"{stack} {pages}" for stack, pages in sorted(found.items()))


def _plain(label: str) -> str:
    """Without what separates frames and stacks."""
    return printable(" ".join(label.replace(";", ":").split()))


def speedscope(made: Tally) -> dict[str, Any]:
    """A file of speedscope.app: all processes, then each one, in the order of time, weighed in bytes."""
    numbers: dict[Frame, int] = {}
    names = Names(made.files())
    ordered = sorted((time, number) for time, number, _ in made.copies())
    by_pid: dict[int, list[int]] = {}
    for _, number in ordered:
        by_pid.setdefault(made.kinds[number].pid, []).append(number)
    stacks = {number: _numbered(kind, numbers) for number, kind in made.kinds.items()}
    profiles = (
        [_profile("all processes", (number for _, number in ordered), stacks)] if len(by_pid) != 1 else []
    )
    profiles += [_profile(f"process {pid}", each, stacks) for pid, each in sorted(by_pid.items())]
    return {
        "$schema": SPEEDSCOPE,
        "version": "0.0.1",
        "name": Path(made.recording.path).name,
        "exporter": f"clonal {clonal.__version__}",
        "activeProfileIndex": 0,
        "shared": {"frames": [_frame(frame, names) for frame in numbers]},
        "profiles": profiles,
    }


def _frame(frame: Frame, names: Names) -> dict[str, Any]:
    made: dict[str, Any] = {"name": names.function(frame)}
    made |= {"file": frame.file} if frame.file not in ("", UNKNOWN.file) else {}
    return made | ({"line": frame.line} if frame.line else {})


def _profile(name: str, kinds: Iterable[int], stacks: dict[int, list[int]]) -> dict[str, Any]:
    """Copies that follow each other with the same stack are one sample."""
    runs = [(stack, len(list(same))) for stack, same in groupby(stacks[number] for number in kinds)]
    samples = [stack for stack, _ in runs]
    weights = [PAGE * pages for _, pages in runs]
    return {
        "type": "sampled",
        "name": name,
        "unit": "bytes",
        "startValue": 0,
        "endValue": sum(weights),
        "samples": samples,
        "weights": weights,
    }


def _numbered(kind: What, numbers: dict[Frame, int]) -> list[int]:
    """The numbers of the frames of a stack, from the outermost on."""
    stack = [*frames(row_of(kind)), Frame(f"[{kind.cause}]", "", 0)]
    return [numbers.setdefault(frame, len(numbers)) for frame in stack]


def as_json(made: Tally) -> dict[str, Any]:
    """Everything that is counted."""
    recording = made.recording
    names = Names(made.files())
    seen = timeline(made, SPANS)
    return {
        "version": VERSION,
        "recording": {
            "file": recording.path,
            "command": recording.command,
            "machine": recording.machine,
            "backend": recording.backend,
            "began": recording.wall,
            "status": recording.status,
            "hooked": recording.hooked,
            "truncated": recording.truncated,
            "damaged": recording.damaged,
            "missed": recording.missed,
            "unreadable_chunks": recording.unreadable,
        },
        "page_size": PAGE,
        "pages": _pages(made),
        "causes": dict(made.by(lambda row: row.cause)),
        "categories": dict(made.by(lambda row: row.category)),
        "types": dict(made.by(lambda row: row.type)),
        "modules": dict(made.by(lambda row: names.module(row.frame.file))),
        "generations": [
            dict(zip(("generation", "processes", "pages"), each, strict=True)) for each in generations(made)
        ],
        "processes": _processes(made),
        "timeline": {"seconds": (seen.end - seen.start) / 1e9, "pages": seen.pages},
        "locations": [each._asdict() for each in made.locations()],
    }


def _pages(made: Tally) -> dict[str, int]:
    processes = made.recording.processes.values()
    return {
        "copied": made.copied,
        "copied_or_reused": made.not_sure,
        "reused": made.reused,
        "copied_by_recording": made.by_recording,
        "lost": sum(process.lost for process in processes),
        "first_touches": sum(process.fresh for process in processes),
    }


def _processes(made: Tally) -> list[dict[str, Any]]:
    pages: Counter[int] = Counter()
    for row, copied in made.rows.items():
        pages[row.pid] += copied
    return [
        {
            "pid": each.pid,
            "parent": each.parent,
            "generation": each.generation,
            "argv": each.argv,
            "pages": pages[each.pid],
            "shared": each.shared,
            "own": each.own,
            "lost": each.lost,
            "began": each.began,
            "ended": each.ended,
            "failed": each.failed,
            "executes": each.executes,
        }
        for each in made.recording.processes.values()
    ]
