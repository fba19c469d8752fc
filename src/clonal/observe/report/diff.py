"""Two recordings side by side: what grew and what shrank."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from clonal.observe.report.count import Row, Tally
from clonal.observe.report.names import Names
from clonal.observe.report.summary import plural, shortcomings
from clonal.observe.report.text import BAD, BOLD, DIM, GOOD, Line, amount, fit, fit_end, fit_place, wrapped
from clonal.report.table import counted

ROWS = 10
MANY = 10  # times: from then on that is said rather than per cent
VERSION = 1  # of the JSON


class Change(NamedTuple):
    """Pages before and after."""

    name: str
    before: int
    after: int

    @property
    def by(self) -> int:
        return self.after - self.before


def changes(before: Tally, after: Tally, key: Callable[[Tally], Callable[[Row], str]]) -> list[Change]:
    """What has changed by a key, the greatest first; what has not is last."""
    counts = [dict(each.by(key(each))) for each in (before, after)]
    found = [Change(name, *(count.get(name, 0) for count in counts)) for name in counts[0] | counts[1]]
    return sorted(found, key=lambda change: (-abs(change.by), change.name))


def _of(attribute: str) -> Callable[[Tally], Callable[[Row], str]]:
    return lambda _tally: lambda row: getattr(row, attribute)


def _function(made: Tally) -> Callable[[Row], str]:
    """Function and module: lines move from one version of a program to the next, and so do folders."""
    names = Names(made.files())
    return lambda row: f"{names.function(row.frame)}\0{names.module(row.frame.file)}"


SECTIONS = (("by cause", _of("cause")), ("by kind of memory", _of("category")), ("by type", _of("written")))


def text(before: Tally, after: Tally, width: int) -> Iterator[Line]:
    """The differences as lines."""
    for name, each in (("before", before), ("after", after)):
        processes = plural(len(each.recording.processes), "process")
        what = f"{counted(each.copied, 'page')}{each.only}, {amount(each.copied)}, {processes}"
        path = fit_end(each.recording.path, width - len(what) - 10)
        yield ((f"{name:7} ", DIM), (path, BOLD), (f"  {what}", ""))
        for note in shortcomings(each.recording):
            yield from wrapped(note, width, BAD, indent=" " * 8)
    yield ()
    yield _heading("pages copied", width)
    yield _row(Change("all", before.copied, after.copied), width)
    for title, key in SECTIONS:
        found = [change for change in changes(before, after, key) if change.by]
        yield from _section(title, found, width)
    functions = changes(before, after, _function)
    if not any(change.by for change in functions):
        yield (("  no page has changed its function", DIM),)
    yield from _section("functions that grew", [each for each in functions if each.by > 0], width)
    yield from _section("functions that shrank", [each for each in functions if each.by < 0], width)


def _heading(title: str, width: int) -> Line:
    return ((fit(title, width - 42), BOLD), (f"{'before':>10}{'after':>10}{'change':>12}{'':10}", DIM))


def _section(title: str, found: list[Change], width: int) -> Iterator[Line]:
    if not found:
        return
    yield ()
    yield _heading(title, width)
    yield from (_row(change, width) for change in found[:ROWS])
    if rest := found[ROWS:]:
        name = f"… {len(rest):,} more"
        yield _row(Change(name, sum(c.before for c in rest), sum(c.after for c in rest)), width)


def _row(change: Change, width: int) -> Line:
    function, _, module = change.name.partition("\0")
    room = width - 44
    name = fit_place(function, module, room) if module not in ("", function) else fit(function, room)
    style = GOOD if change.by < 0 else BAD if change.by else ""
    return (
        (f"  {name}{change.before:>10,}{change.after:>10,}", ""),
        (f"{change.by:>+12,}".replace("-", "−"), style),
        (f"{_ratio(change):>10}", style),
    )


def _ratio(change: Change) -> str:
    """By how much it has changed, as one says it."""
    if not change.before:
        return "new" if change.after else ""
    if change.after >= MANY * change.before:
        return f"× {change.after / change.before:,.0f}"
    return f"{100 * change.by / change.before:+.0f} %".replace("-", "−")


def as_json(before: Tally, after: Tally) -> dict[str, Any]:
    """The differences as docs/report.md lists them."""
    sections = {title.removeprefix("by "): changes(before, after, key) for title, key in SECTIONS}
    renamed = {"cause": "causes", "kind of memory": "categories", "type": "types"}
    found = {renamed[name]: [_json(each) for each in changed] for name, changed in sections.items()}
    functions = []
    for change in changes(before, after, _function):
        function, _, module = change.name.partition("\0")
        functions.append({"function": function, "module": module} | _pages(change))
    sides = {"before": before, "after": after}
    return {
        "version": VERSION,
        **{name: {"file": each.recording.path, "pages": each.copied} for name, each in sides.items()},
        **found,
        "functions": functions,
    }


def _json(change: Change) -> dict[str, Any]:
    return {"name": change.name} | _pages(change)


def _pages(change: Change) -> dict[str, int]:
    return {"before": change.before, "after": change.after, "change": change.by}
