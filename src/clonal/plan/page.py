"""The plan as a page: the question, the answer in large figures, charts, tables, what to change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from clonal.model import PAGE
from clonal.plan import curves, show, sweep_curves
from clonal.plan.advice import advise
from clonal.plan.planner import Outlook, Plan
from clonal.plan.question import MOST_CLONES
from clonal.plan.sweep import Axis, Point
from clonal.report import html
from clonal.report.html import Figure
from clonal.report.words import duration, size, three

TITLE = "What a fleet of clones will cost"
HIDE = (
    "Click a name to show or hide it. A line is pale after the OOM killer has come; the band above it "
    "reaches up to the worst of some random fleets."
)
ALIKE = 0.05  # a smaller difference is not called one


def page(plan: Plan) -> str:
    """A self-contained page."""
    data = plan.to_json() | {"advice": [each.to_json() for each in advise(plan)]}
    return html.page(TITLE, "", _parts(plan), data)


def _parts(plan: Plan) -> Iterator[str]:
    yield html.facts(_facts(plan))
    yield from _verdicts(plan)
    yield html.figures(_figures(plan))
    yield html.lines(curves.memory(plan))
    yield html.paragraph(HIDE)
    yield html.side_by_side([html.bars(curves.stalls(plan)), html.bars(curves.memories(plan))])
    columns = ("change", "prediction", "how")
    if found := show.changes(plan):
        yield html.words("What to change, and what that is predicted to do", columns, found)
    for table in show.tables(plan):
        yield html.table(table.title, table.columns, table.rows, table.emphasis)
    strategies = [(curves.label(name), outlook.way.what) for name, outlook in plan.outlooks.items()]
    yield html.details("What the strategies are", [html.words("", ("strategy", "what it does"), strategies)])
    yield html.details("What the figures mean", map(html.paragraph, show.notes(plan)))


def _facts(plan: Plan) -> Iterator[tuple[str, str]]:
    for line in show.question(plan):
        name, colon, text = line.partition(": ")
        yield (name, text) if colon and " " not in name else ("Costs", line)


def _verdicts(plan: Plan) -> Iterator[str]:
    """Whether the fleet is possible, for os.fork and for what it is compared with."""
    names = {"os.fork": plan.plain, curves.rival(plan): plan.outlooks[curves.rival(plan)]}
    for name, outlook in names.items():
        trouble = _trouble(outlook)
        text = (
            trouble or f"all {plan.fleet.clones:,} clones fit, in {size(outlook.memory.worst)} at the worst"
        )
        yield html.verdict(f"{name}: {text}.", good=not trouble)


def _trouble(outlook: Outlook) -> str:
    """What stops the fleet first; empty: nothing does."""
    memory, refused = outlook.memory, outlook.commit.at
    if refused is not None and refused <= (memory.alive or refused):
        return f"the kernel refuses to fork clone {refused:,} ({outlook.commit.why})"
    if memory.full is None or outlook.victim is None:
        return ""
    rare = f", in {memory.over:.0%} of random fleets" if memory.over < 0.5 else ""
    when = f"memory ends after {duration(memory.full * 1e9)}, with {memory.alive or 0:,} clones alive{rare}"
    return f"{when}; the OOM killer takes {outlook.victim.who}"


def _figures(plan: Plan) -> Iterator[Figure]:
    fork, other = plan.plain, plan.outlooks[curves.rival(plan)]
    names = f"os.fork → {other.way.name}"
    yield _change("One fork stops the server for", fork.way.stall, other.way.stall, duration, names)
    parts = f"{size(other.way.private)} of pages, {size(other.way.overhead)} of tables and kernel structures"
    yield _change("One more clone takes", fork.way.memory, other.way.memory, size, parts)
    asked = f"of {plan.fleet.clones:,} asked for; bound by: {fork.fit.bound}"
    yield _change("Clones that fit", fork.fit.clones, other.fit.clones, _many, asked, more=True)
    yield _change("All forks, one after another", fork.forks * 1e9, other.forks * 1e9, duration, names)
    if fork.storm.seconds:
        storm = f"all clones touch at once and wait for {fork.storm.bound}"
        yield _change("The storm lasts", fork.storm.seconds * 1e9, other.storm.seconds * 1e9, duration, storm)
    copied = f"pages, {size(plan.copied_pages * PAGE)}, by os.fork for the whole fleet"
    yield Figure("Copied on write", f"{plan.copied_pages:,}", more=copied)


def _change(name: str, before: float, after: float, words: Any, what: str, more: bool = False) -> Figure:
    """A figure of os.fork and of the other; `more` is better, or less is."""
    said, then = words(after), words(before)
    if said == then:
        return Figure(name, said, more=what)
    low, high = sorted((before, after))
    gain = ""
    if high * (1 - ALIKE) > low > 0:
        gain = f"{three(high / low)} × {'more' if after > before else 'less'};"
    return Figure(name, said, then, gain, what, good=(after > before) == more)


def _many(count: float) -> str:
    return f"{count:,.0f}" if count <= MOST_CLONES else "any number"


def sweep_page(axes: Sequence[Axis], points: Sequence[Point]) -> str:
    """A self-contained page of a sweep."""
    data = {"plans": [point.to_json(axes) for point in points]}
    return html.page(TITLE, "", _sweep_parts(axes, points), data)


def _sweep_parts(axes: Sequence[Axis], points: Sequence[Point]) -> Iterator[str]:
    swept = [(f"Swept: {axis.name}", ", ".join(axis.values)) for axis in axes]
    count = ("Plans", f"{len(points):,}; server, fleet and machine above are those of the first")
    yield html.facts([*_facts(points[0].plan), count, *swept])
    yield html.panels(sweep_curves.charts(axes, points))
    if same := sweep_curves.constants(axes, points):
        yield html.paragraph(f"Not changed by it: {'; '.join(same)}.")
    table = show.sweep_table(axes, points)
    yield html.table(table.title, table.columns, table.rows)
    yield html.details("What the figures mean", [html.paragraph(show.LEGEND)])
