"""One self-contained page: every step drawn, stepped through by keys and buttons. It loads nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from clonal.explain.svg import svg
from clonal.explain.tell import Moment, Story
from clonal.explain.text import HIDDEN, SAME, counters, shortened

LEGEND = (
    ("w", "w", "a write does not fault"),
    ("c", "c", "a write faults, then copies or reuses the frame"),
    ("r", "r", "any other entry"),
    ("none", "·", "no entry: any access faults"),
    ("h", "H", "one entry for 2 MiB"),
    ("k", "→", "mapped; the kernel does not show who may write"),
    ("n", "×2", "how many entries map the frame"),
    ("anon", "", "anonymous"),
    ("file", "", "page cache"),
    ("zero", "", "the zero page"),
    ("far", "", "on node 1"),
    ("changed", "", "changed in this step"),
)
HINT = "<kbd>←</kbd> <kbd>→</kbd> step&ensp; <kbd>Home</kbd> <kbd>End</kbd> first, last"
SINGLE = ' class="single"'
TOPIC_HINT = "&ensp; <kbd>↑</kbd> <kbd>↓</kbd> topic"


def page(stories: Sequence[Story]) -> str:
    """All stories; the first is shown, its address says which step: `#fork/3`."""
    single = len(stories) == 1
    title = f"clonal explain {stories[0].topic.name}" if single else "clonal explain"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_resource('page.css')}</style></head>\n"
        f"<body{SINGLE if single else ''}>{'' if single else _topics(stories)}"
        f"{_steps(stories)}<main>{''.join(map(_story, stories))}</main>\n"
        f"<footer>{_legend(stories)}</footer>\n<script>{_resource('page.js')}</script></body></html>\n"
    )


def _resource(name: str) -> str:
    return (files("clonal.explain") / name).read_text("utf-8")


def _topics(stories: Sequence[Story]) -> str:
    links = "".join(
        f'<a href="#{each.topic.name}/1" title="{escape(each.topic.title)}">{each.topic.name}</a>'
        for each in stories
    )
    return f'<nav class="topics" aria-label="topics"><p>clonal explain</p>{links}</nav>\n'


def _steps(stories: Sequence[Story]) -> str:
    single = len(stories) == 1
    options = "".join(f'<option value="{s.topic.name}">{s.topic.name}</option>' for s in stories)
    return (
        f'<nav class="steps" aria-label="steps">'
        f'<select id="topic" aria-label="topic"{" hidden" if single else ""}>{options}</select>'
        '<button id="back" title="left arrow">◀ back</button><span id="at" aria-live="polite"></span>'
        '<button id="next" title="right arrow">next ▶</button><span id="dots"></span>'
        f'<span class="hint">{HINT}{"" if single else TOPIC_HINT}</span></nav>\n'
    )


def _story(story: Story) -> str:
    topic = story.topic
    reasons = (("this kernel", story.without_kernel), ("the model", story.without_model))
    notes = "".join(f'<p class="warning">Without {name}: {escape(why)}.</p>' for name, why in reasons if why)
    if story.frames_hidden:
        notes += f'<p class="note">{HIDDEN.partition("; ")[2]}: the arrows of its side are missing.</p>'
    steps = "".join(_step(story, index) for index in range(len(story.moments)))
    return (
        f'<section class="story" id="{topic.name}"><h1><small>{topic.name}</small>'
        f"<span>{escape(topic.title)}</span></h1>"
        f'{notes}{steps}<p class="lesson">{_prose(topic.lesson)}</p></section>\n'
    )


def _step(story: Story, index: int) -> str:
    shown = story.moments[index]
    lines = "\n".join(map(_line, shortened(shown.lines)))
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in shown.notes)
    wrong = "".join(
        f'<p class="warning">The kernel differs: {escape(each)}</p>' for each in shown.differences
    )
    return (
        f'<article class="step" data-step="{index + 1}"><div class="told"><pre>{lines}</pre>'
        f'<div><p>{_prose(shown.tell.why)}</p><p class="where">{escape(shown.tell.where)}</p></div></div>'
        f"{_tiles(shown)}{wrong}{notes}{_figures(story, shown)}</article>\n"
    )


def _prose(text: str) -> str:
    return re.sub(r"`(.+?)`", r"<code>\1</code>", escape(text))


def _line(line: str) -> str:
    """A line of a scenario, its process in bold."""
    if line.startswith("#"):
        return f"<i>{escape(line)}</i>"
    return re.sub(r"^(\w+):", r"<b>\1</b>:", escape(line))


def _figures(story: Story, shown: Moment) -> str:
    sides = (("the model", "", shown.model), (story.kernel_name, "this machine, just now", shown.kernel))
    figures = "".join(
        f"<figure><figcaption>{escape(name)} <small>{when}</small></figcaption>{svg(side, name)}</figure>"
        for name, when, side in sides
        if side is not None
    )
    return f'<div class="figures">{figures}</div>'


def _tiles(shown: Moment) -> str:
    """The counters, the kernel's below the model's."""
    if shown.side is None:
        return ""
    ours = counters(shown.side)
    theirs = counters(shown.kernel) if shown.model and shown.kernel else None
    tiles = "".join(_tile(name, value, theirs) for name, value in ours.items())
    if theirs is not None and not shown.differences:
        tiles += f'<li class="good">✓ {SAME}</li>'
    return f'<ul class="tiles">{tiles}</ul>'


def _tile(name: str, value: str, theirs: dict[str, str] | None) -> str:
    other = theirs.get(name) if theirs is not None else None
    wrong = ' class="wrong"' if other not in (None, value) else ""
    below = "<small>the model only</small>" if other is None else f"<small>kernel: {escape(other)}</small>"
    below = below if theirs is not None else ""
    return f"<li{wrong}><b>{escape(value)}</b><span>{escape(name)}</span>{below}</li>"


def _legend(stories: Sequence[Story]) -> str:
    """Nodes are explained where there are any."""
    nodes = any(story.topic.config.get("nodes") for story in stories)
    return "".join(
        f'<span><i class="key {css}">{mark or "&nbsp;"}</i> {words}</span>'
        for css, mark, words in LEGEND
        if nodes or css != "far"
    )
