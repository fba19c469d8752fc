"""The flame graph: one self-contained page to zoom and search in. It loads nothing."""

from __future__ import annotations

import json
import shlex
from html import escape
from importlib.resources import files
from typing import Any

from clonal.observe.analyse import CAUSES, Frame
from clonal.observe.report.count import PAGE, Tally
from clonal.observe.report.names import Names
from clonal.observe.report.summary import plural, shortcomings
from clonal.observe.report.text import amount
from clonal.observe.report.tree import Node, tree
from clonal.report.table import counted

KEYS = (
    ("<kbd>↑</kbd> <kbd>↓</kbd>", "caller, callee"),
    ("<kbd>←</kbd> <kbd>→</kbd>", "beside"),
    ("<kbd>Enter</kbd>", "zoom in"),
    ("<kbd>Esc</kbd>", "zoom out"),
    ("<kbd>/</kbd>", "search"),
)
ORDER = ("reference count", "gc header", "allocator metadata", "interpreter internals", "data", "unknown")
assert sorted(ORDER) == sorted(CAUSES)


def page(made: Tally) -> str:
    """The whole page."""
    command = shlex.join(made.recording.command)
    embedded = json.dumps(data(made), separators=(",", ":")).replace("<", "\\u003c")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Pages copied: {escape(command)}</title><style>{_resource('flame.css')}</style></head>\n"
        f'<body class="{"" if made.copied else "empty"}"><header>'
        f"<h1>{escape(command)}</h1><p>{escape(_figures(made))}</p>{_notes(made)}</header>\n"
        f"{_controls()}"
        f'<div id="chart" role="tree" aria-label="flame graph" data-empty="{escape(_none(made))}"></div>\n'
        '<footer><div id="about" aria-live="polite"></div>'
        f'<p class="keys">{"".join(f"<span>{keys} {what}</span>" for keys, what in KEYS)}</p></footer>\n'
        "<noscript><p>The flame graph is drawn by a script.</p></noscript>\n"
        f'<script type="application/json" id="data">{embedded}</script>\n'
        f"<script>{_resource('flame.js')}</script></body></html>\n"
    )


def _resource(name: str) -> str:
    return (files("clonal.observe.report") / name).read_text("utf-8")


def _figures(made: Tally) -> str:
    processes = plural(len(made.recording.processes), "process")
    how = f"; recorded by {made.recording.backend}" if made.recording.backend else ""
    return f"{counted(made.copied, 'page')} copied{made.only}, {amount(made.copied)}, in {processes}{how}"


def _none(made: Tally) -> str:
    """What stands where there is nothing to draw."""
    return made.recording.empty or "no page was copied"


def _notes(made: Tally) -> str:
    return "".join(f'<p class="warning">{escape(note)}</p>' for note in shortcomings(made.recording))


def _controls() -> str:
    return (
        '<nav aria-label="what is shown"><div id="legend" role="group" aria-label="causes"></div>'
        '<select id="process" aria-label="process"></select>'
        '<input id="search" type="search" placeholder="search: function, file, type" aria-label="search">'
        '<output id="found" for="search"></output>'
        '<button id="out" disabled>zoom out</button></nav>\n'
    )


def data(made: Tally) -> dict[str, Any]:
    """What the script draws: `tree` is [frame, children, [[cause, type, process, pages], …]]."""
    return _Data(made).whole()


class _Data:
    """Numbers instead of names, each name once."""

    def __init__(self, made: Tally) -> None:
        self._made = made
        self._names = Names(made.files())
        self._frames: dict[Frame, int] = {}
        self._types: dict[str, int] = {}
        self._pids = {pid: number for number, pid in enumerate(sorted(made.recording.processes))}

    def whole(self) -> dict[str, Any]:
        drawn = self._node(tree(self._made))
        processes = self._made.recording.processes
        return {
            "page": PAGE,
            "causes": ORDER,
            "types": list(self._types),
            "processes": [[pid, processes[pid].generation] for pid in self._pids],
            "frames": [self._frame(frame) for frame in self._frames],
            "tree": drawn,
        }

    def _frame(self, frame: Frame) -> list[str]:
        return [self._names.function(frame), self._names.place(frame), frame.file]

    def _node(self, node: Node) -> list[Any]:
        frame = -1 if node.frame is None else self._frames.setdefault(node.frame, len(self._frames))
        itself = [
            [ORDER.index(cause), self._types.setdefault(kind, len(self._types)), self._pids[pid], pages]
            for (cause, kind, pid), pages in sorted(node.itself.items())
        ]
        return [frame, [self._node(child) for child in node.ordered()], itself]
