"""The plan as tables and lines of text: the same for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from clonal.model import PAGE
from clonal.plan.advice import Gain, advise
from clonal.plan.planner import OURS, Outlook, Plan
from clonal.plan.question import MOST_CLONES, Fleet, Host
from clonal.plan.server import Server
from clonal.plan.sweep import Axis, Point
from clonal.report.words import duration, share, size

NOTHING = "—"
COLUMNS = ("strategy", "one fork", "ready", "touches", "exit", "memory each", "all forks", "storm", "fit")
LEGEND = (
    "one fork: the caller's stall in the call; ready: until the clone can run; touches: its faults when it "
    "writes and reads what it will, alone on the machine; exit: until it was reaped; memory each: what one "
    "more clone takes, page tables and kernel structures included; all forks: the whole fleet's, one after "
    "another; storm: all clones touch their pages at once; fit: how many can be alive at once, each with all "
    "that it will ever touch, before memory or promises end"
)


class Table(NamedTuple):
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    emphasis: str | None = None


def question(plan: Plan) -> Iterator[str]:
    """What was asked, a line each for server, fleet, machine and costs."""
    yield f"Server: {_server(plan.server)}"
    yield f"Fleet: {_fleet(plan.fleet, plan.server)}"
    yield f"Machine: {_host(plan.host)}"
    yield _first_upper(plan.costs.origin.sentence())
    yield from (f"Note: {note}" for note in plan.costs.origin.notes)


def _server(server: Server) -> str:
    parts = [f"heap {size(server.heap)}"] if server.heap or not server.image else []
    parts += [f"image {size(server.image)}"] if server.image else []
    parts += [f"code {size(server.code)}"] if server.code else []
    parts += [f"{server.vmas:,} mappings, {server.anon_vmas:,} of them with private pages"]
    named = "" if server.name == "server" else f"{server.name}: "
    return named + ", ".join(parts) + (", in huge pages" if server.thp else "")


def _fleet(fleet: Fleet, server: Server) -> str:
    same = "the same" if fleet.same else "a random"
    pages = round(fleet.share * server.heap_pages)
    text = f"{fleet.clones:,} clones, each writes {same} {share(fleet.share)} of the heap"
    text += f" ({pages:,} pages, {size(pages * PAGE)}) and reads {share(fleet.read)}"
    text += f", {size(fleet.rate)} a second" if fleet.rate else ""
    text += (
        f"; each lives {duration(fleet.lifetime * 1e9)}, then another takes its place"
        if fleet.lifetime
        else ""
    )
    text += f"; {fleet.starts:,.6g} are started a second" if fleet.starts else ""
    return text + ("; it only runs another program" if fleet.execs else "")


def _host(host: Host) -> str:
    text = f"{host.cores} cores, {size(host.ram)} of RAM"
    text += f" and {size(host.swap)} of swap" if host.swap else ", no swap"
    text += f", {size(host.used)} in use" if host.used else ""
    text += f", memory cgroup limit {size(host.limit)}" if host.limit is not None else ""
    text += f", vm.overcommit_memory={host.overcommit}"
    return text + (f", {host.nodes} NUMA nodes" if host.nodes > 1 else "")


def tables(plan: Plan) -> Iterator[Table]:
    """All tables of a plan."""
    rows = [_row(outlook) for outlook in plan.outlooks.values()]
    yield Table("Every way of cloning", COLUMNS, rows, OURS)
    yield Table(
        "The fleet's memory",
        ("strategy", "p50", "worst", "copied", "commit", "when memory ends"),
        [_memory_row(outlook, plan) for outlook in plan.outlooks.values()],
        OURS,
    )


def _row(outlook: Outlook) -> list[str]:
    way = outlook.way
    storm = duration(outlook.storm.seconds * 1e9) if outlook.storm.seconds else NOTHING
    return [
        way.name,
        duration(way.stall),
        duration(way.ready),
        duration(way.touch) if way.touch else NOTHING,
        duration(way.end),
        size(way.memory),
        duration(outlook.forks * 1e9),
        storm,
        _many(outlook.fit.clones),
    ]


def _memory_row(outlook: Outlook, plan: Plan) -> list[str]:
    memory = outlook.memory
    commit = f"refused at {outlook.commit.at:,}" if outlook.commit.at is not None else "granted"
    copied = outlook.way.copied * plan.fleet.clones
    return [
        outlook.way.name, size(memory.p50), size(memory.worst), size(copied) if copied else NOTHING, commit,
        _end(outlook),
    ]  # fmt: skip


def _end(outlook: Outlook) -> str:
    if outlook.victim is None or outlook.memory.full is None:
        return "it suffices"
    when = f"{duration(outlook.memory.full * 1e9)}, {outlook.memory.alive or 0:,} clones"
    return f"{when}: kills {outlook.victim.who}"


class Change(NamedTuple):
    """A remedy in words."""

    what: str
    prediction: str
    how: str


def changes(plan: Plan) -> list[Change]:
    """What to change, with what that is predicted to do."""
    return [Change(each.what, "; ".join(map(_gain, each.gains)), each.how) for each in advise(plan)]


def _gain(gain: Gain) -> str:
    return f"{gain.what} {_value(gain.before, gain.unit)} → {_value(gain.after, gain.unit)}"


def _value(value: float | str, unit: str) -> str:
    if isinstance(value, str):
        return value
    if unit == "clones":
        return _many(int(value))
    return duration(value * 1e9) if unit == "s" else size(value)


def _many(count: int) -> str:
    return f"{count:,}" if count <= MOST_CLONES else "any number"


def notes(plan: Plan) -> Iterator[str]:
    """What else there is to say, a line each."""
    fleet, exact = plan.fleet, plan.exact
    few = exact.clones < fleet.clones
    how = f"page by page for {exact.clones:,} of them, the others like their average" if few else ""
    yield (
        f"os.fork: {plan.copied_pages:,} pages copied ({size(plan.copied_pages * PAGE)}), "
        + (how or "page by page for all of them")
    )
    if plan.plain.busy and plan.plain.busy > 1:
        yield (
            f"os.fork cannot keep that many alive: replacing them would take {plan.plain.busy:,.1f} times "
            "what one process can fork, so there would be fewer, and the figures are for more"
        )
    if exact.share < 1:
        yield (
            f"A server this large is not simulated in whole: {share(exact.share)} of it was, and all counts "
            "are drawn on from there in proportion"
        )
    storm = plan.plain.storm
    if storm.seconds:
        yield (
            f"Storm of os.fork: clones wait for {storm.bound}; {size(storm.bandwidth)} a second are copied, "
            f"{size(storm.most)} could be"
        )
    yield f"What fits is bound by: {plan.plain.fit.bound} (os.fork), {plan.outlooks[OURS].fit.bound} (image)"
    yield LEGEND
    yield "Models, not to be had on a stock kernel: shared_tables, async_copy, hardware, eager"


def sweep_table(axes: Sequence[Axis], points: Sequence[Point]) -> Table:
    """os.fork beside the image, a row for each plan."""
    columns = [
        *(axis.name for axis in axes), "fork", "image's\nfork", "touches", "image's\ntouches", "memory\neach",
        "p50\nof all", "storm", "fit", "image's\nfit",
    ]  # fmt: skip
    return Table("os.fork beside an image", columns, [_sweep_row(point) for point in points])


def _sweep_row(point: Point) -> list[str]:
    fork, image = point.plan.plain, point.plan.outlooks[OURS]
    return [
        *point.values,
        duration(fork.way.stall),
        duration(image.way.stall),
        duration(fork.way.touch),
        duration(image.way.touch),
        size(fork.way.memory),
        size(fork.memory.p50),
        duration(fork.storm.seconds * 1e9),
        _many(fork.fit.clones),
        _many(image.fit.clones),
    ]


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]
