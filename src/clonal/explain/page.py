"""One self-contained page: every step drawn, stepped through by keys and buttons. It loads nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from clonal.explain.machines import Side
from clonal.explain.svg import svg
from clonal.explain.tell import Moment, Story
from clonal.explain.text import counters

LEGEND = (
    ("w", "w", "a write does not fault"),
    ("c", "c", "a write copies, or reuses the frame"),
    ("r", "r", "any other entry"),
    ("none", "·", "no entry: an access faults"),
    ("k", "→", "the kernel does not show who may write"),
    ("h", "H", "one entry for 2 MiB"),
    ("changed", "", "changed in this step"),
)


def page(stories: Sequence[Story]) -> str:
    """All stories; the first is shown, its address says which step: `#fork/3`."""
    title = f"clonal explain {stories[0].topic.name}" if len(stories) == 1 else "clonal explain"
    hidden = " hidden" if len(stories) == 1 else ""
    options = "".join(f'<option value="{s.topic.name}">{s.topic.name}</option>' for s in stories)
    data = json.dumps([story.to_json() for story in stories]).replace("<", "\\u003c")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_resource('page.css')}</style></head><body>\n"
        f'<nav><select id="topic" aria-label="topic"{hidden}>{options}</select>'
        '<button id="back" title="left arrow">◀ back</button><span id="at"></span>'
        '<button id="next" title="right arrow">next ▶</button>'
        '<span class="hint">← → step, Home and End, ↑ ↓ topic</span></nav>\n'
        f"{''.join(map(_story, stories))}"
        f'<footer>{_legend()}</footer>\n<script type="application/json" id="stories">{data}</script>\n'
        f"<script>{_resource('page.js')}</script></body></html>\n"
    )


def _resource(name: str) -> str:
    return (files("clonal.explain") / name).read_text("utf-8")


def _story(story: Story) -> str:
    topic = story.topic
    reasons = (("this kernel", story.without_kernel), ("the model", story.without_model))
    notes = "".join(f'<p class="warning">Without {name}: {escape(why)}.</p>' for name, why in reasons if why)
    steps = "".join(_step(story, index) for index in range(len(story.moments)))
    return (
        f'<section class="story" id="{topic.name}"><h1><b>{topic.name}</b> {escape(topic.title)}</h1>'
        f'{notes}{steps}<p class="lesson">{escape(topic.lesson)}</p></section>\n'
    )


def _step(story: Story, index: int) -> str:
    shown = story.moments[index]
    lines = "\n".join(escape(line) for line in shown.lines) or "(the kernel acts)"
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in shown.notes)
    wrong = "".join(
        f'<p class="warning">The kernel differs: {escape(each)}</p>' for each in shown.differences
    )
    return (
        f'<article class="step" data-step="{index + 1}"><div class="told"><pre>{lines}</pre>'
        f'<div><p>{escape(shown.tell.why)}</p><p class="where">{escape(shown.tell.where)}</p>'
        f"{notes}{wrong}</div></div>{_figures(story, shown)}</article>\n"
    )


def _figures(story: Story, shown: Moment) -> str:
    sides = (("the model", shown.model), (f"{story.kernel_name}, just now", shown.kernel))
    figures = "".join(
        f"<figure><figcaption>{escape(name)}</figcaption>{svg(side, name)}</figure>"
        for name, side in sides
        if side is not None
    )
    return f'<div class="figures">{figures}{_table(shown, [name for name, side in sides if side])}</div>'


def _table(shown: Moment, names: list[str]) -> str:
    """The counters of both machines."""
    sides: list[Side] = [side for side in (shown.model, shown.kernel) if side is not None]
    if not sides:
        return ""
    columns = [counters(side) for side in sides]
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = "".join(
        f"<tr><td>{escape(name)}</td>"
        + "".join(f"<td>{escape(column.get(name, '—'))}</td>" for column in columns)
        + "</tr>"
        for name in columns[0]
    )
    same = len(sides) == 2 and not shown.differences
    verdict = '<p class="good">The kernel shows the same, page by page.</p>' if same else ""
    return f'<div class="counters"><table><tr><th></th>{head}</tr>{rows}</table>{verdict}</div>'


def _legend() -> str:
    return "".join(f'<span><i class="key {css}">{mark}</i> {words}</span>' for css, mark, words in LEGEND)
