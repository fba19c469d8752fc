"""`clonal plan`: what a fleet of clones will cost, and how many fit."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clonal.cli.main import Parser, UserMistake, require
from clonal.cli.outputs import check_file, write
from clonal.report.table import console, table
from clonal.report.words import BadValue, parse_share, parse_size, parse_time, size

if TYPE_CHECKING:
    from clonal.plan.costs import Costs
    from clonal.plan.planner import Plan
    from clonal.plan.question import Fleet, Host
    from clonal.plan.server import Server
    from clonal.plan.sweep import Axis, Point

SERVER = ("heap", "code", "libraries", "vmas")
FLEET = ("clones", "written", "refcounts", "read", "rate", "lifetime", "starts")
HOST = (
    "ram", "swap", "used", "committed", "limit", "cores", "nodes", "overcommit", "overcommit-ratio",
    "oom-score-adj", "oom-score-adj-clones",
)  # fmt: skip
MEASURED = ("pid", "template")
SWEPT = SERVER + FLEET + HOST
EXAMPLE = "clonal plan --heap 500M --code 200M --clones 1000 --written 5%"


def parser() -> Parser:
    """The verb's command line."""
    made = Parser(
        prog="clonal plan",
        usage="clonal plan (--heap SIZE | --pid PID | --calibrate) [options]",
        description="What a fleet of clones will cost: latency, memory over time, storms, limits; every "
        "way of cloning side by side, and what to change.",
        epilog=f"Example: {EXAMPLE}. Sizes: 500M, 2G; shares: 5%, 0.05; times: 200ms, 30s, 5m. The machine "
        "is this one unless --ram or --cores says otherwise.",
    )
    _server_options(made)
    _fleet_options(made)
    _host_options(made)
    _output_options(made)
    return made


def _server_options(made: Parser) -> None:
    group = made.add_argument_group("the server")
    group.add_argument("--heap", metavar="SIZE", help="private memory that it has written")
    group.add_argument("--code", metavar="SIZE", help="files mapped and never written: code, data (0)")
    group.add_argument("--libraries", metavar="N", help="shared libraries: five mappings each (0)")
    group.add_argument("--vmas", metavar="N", help="mappings in all (as the above needs)")
    group.add_argument("--thp", action="store_true", help="the heap is in huge pages")
    group.add_argument("--pid", metavar="PID", help="measure this running process instead")
    group.add_argument("--template", metavar="PID", help="the same, and it must be a template with an image")


def _fleet_options(made: Parser) -> None:
    group = made.add_argument_group("the clones")
    group.add_argument("--clones", metavar="N", help="how many are alive at once (1)")
    group.add_argument("--written", metavar="SHARE", help="of the heap that each writes, random pages (5%%)")
    group.add_argument("--refcounts", metavar="SHARE", help="written besides by reading Python objects (0)")
    group.add_argument("--read", metavar="SHARE", help="of the heap that each reads (20%%)")
    group.add_argument("--same", action="store_true", help="all write the same pages")
    group.add_argument("--exec", action="store_true", help="each only runs another program")
    group.add_argument("--rate", metavar="SIZE", help="bytes that each writes a second (as fast as it can)")
    group.add_argument("--lifetime", metavar="TIME", help="on average, then another takes its place (none)")
    group.add_argument("--starts", metavar="N", help="how many are started a second (as fast as can be)")


def _host_options(made: Parser) -> None:
    group = made.add_argument_group("the machine (this one)")
    group.add_argument("--ram", metavar="SIZE", help="of another machine, with nothing else on it")
    group.add_argument("--cores", metavar="N")
    group.add_argument("--swap", metavar="SIZE")
    group.add_argument("--used", metavar="SIZE", help="memory that others use")
    group.add_argument("--committed", metavar="SIZE", help="what others have committed (Committed_AS)")
    group.add_argument("--limit", metavar="SIZE", help="of the memory cgroup that server and clones are in")
    group.add_argument("--nodes", metavar="N", help="NUMA nodes")
    group.add_argument("--overcommit", metavar="MODE", help="vm.overcommit_memory: 0, 1 or 2")
    group.add_argument("--overcommit-ratio", metavar="N", help="per cent, for mode 2")
    group.add_argument("--oom-score-adj", metavar="N", help="of the server")
    group.add_argument("--oom-score-adj-clones", metavar="N")


def _output_options(made: Parser) -> None:
    group = made.add_argument_group("costs and output")
    group.add_argument(
        "--calibrate", action="store_true", help="measure what this machine takes, some 12 s, and keep it"
    )
    group.add_argument(
        "--cost", action="append", default=[], metavar="NAME=NS", help="set one cost; `list` lists them"
    )
    group.add_argument(
        "--sweep", action="append", default=[], metavar="NAME=A,B,…", help="a plan for each value"
    )
    group.add_argument("--json", action="store_true", help="print the plan as JSON")
    group.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it (needs matplotlib)")
    group.add_argument("--html", type=Path, metavar="FILE.html", help="write a self-contained page")


def main(argv: Sequence[str]) -> int:
    arguments = parser().parse_args(argv)
    require("numpy", "model")
    if arguments.cost == ["list"]:
        return list_costs()
    check(arguments)
    if arguments.calibrate:
        calibrate(arguments)
        if not _asked(arguments):
            return 0
    if not _asked(arguments):
        raise UserMistake(f"say what to plan for: --heap SIZE or --pid PID; for example {EXAMPLE}")
    if arguments.sweep:
        return sweep(arguments)
    report(plan_of(arguments), arguments)
    return 0


@contextlib.contextmanager
def as_mistakes(arguments: argparse.Namespace) -> Iterator[None]:
    """What cannot be is a mistake in the command line: says it with the option, and the value as given."""
    from clonal.model import BadMachine
    from clonal.plan.question import BadFleet
    from clonal.plan.server import BadServer

    try:
        yield
    except (BadFleet, BadMachine, BadServer) as error:
        given = getattr(arguments, error.what, None)
        value = f"is {error.value}" if given is None else given
        option = error.what.replace("_", "-")
        raise BadValue(f"--{option} {value}: it must be {error.wanted}") from None


def _asked(arguments: argparse.Namespace) -> bool:
    given = [name for name in ("heap", "code", *MEASURED) if getattr(arguments, name) is not None]
    return bool(given or {"heap", "code"} & {*swept(arguments)})


def swept(arguments: argparse.Namespace) -> list[str]:
    """Names of what is varied, as they are written."""
    return [text.partition("=")[0].strip().lstrip("-") for text in arguments.sweep]


def check(arguments: argparse.Namespace) -> None:
    """Refuses before the work what could not be done after it."""
    measured = [name for name in MEASURED if getattr(arguments, name) is not None]
    given = [name for name in SERVER if getattr(arguments, name) is not None] + ["thp"] * arguments.thp
    given += [name for name in swept(arguments) if name in SERVER]
    if measured and given:
        raise UserMistake(f"--{measured[0]} measures a process: leave out --{given[0]}")
    if len(measured) == 2:
        raise UserMistake("give --pid or --template, not both")
    for path, ending in ((arguments.plot, ".png"), (arguments.html, ".html")):
        if path is not None:
            check_file(path, ending)
    if arguments.plot is not None:
        from clonal.report import plot

        plot.require()


def plan_of(arguments: argparse.Namespace, clones: int | None = None) -> Plan:
    """The plan that was asked for. `clones`: simulated page by page, None: as many as memory allows."""
    from clonal.plan.planner import plan

    with as_mistakes(arguments):
        server, fleet = server_of(arguments), fleet_of(arguments)
        host = host_of(arguments, server)
    must_fit(server, host)
    return plan(server, fleet, host, costs_of(arguments), clones)


def must_fit(server: Server, host: Host) -> None:
    """Refuses a server that has no room itself. Raises BadValue."""
    from clonal.plan import limits

    need = limits.base(server)
    if need <= host.capacity:
        return
    options = "--limit" if host.bound.startswith("memory cgroup") else "--ram, --swap or less --used"
    raise BadValue(
        f"the server alone takes {size(need)}, but there is room for {size(host.capacity)} "
        f"({host.bound}): give more ({options}), or a smaller server"
    )


def server_of(arguments: argparse.Namespace) -> Server:
    from clonal.plan.server import Server

    for name in MEASURED:
        if getattr(arguments, name) is not None:
            return measured(getattr(arguments, name), f"--{name}")
    heap, code = (parse_size(_given(arguments, name, "0"), f"--{name}") for name in ("heap", "code"))
    vmas = None if arguments.vmas is None else whole(arguments.vmas, "--vmas")
    libraries = whole(_given(arguments, "libraries", "0"), "--libraries")
    return Server.of(heap, code, libraries, vmas, arguments.thp)


def _given(arguments: argparse.Namespace, name: str, default: str) -> str:
    value: str | None = getattr(arguments, name)
    return default if value is None else value


def measured(text: str, option: str) -> Server:
    """A live process; a template must be one. Raises BadValue."""
    from clonal.plan.server import NotMeasured, measure

    try:
        found = measure(whole(text, option))
    except NotMeasured as error:
        raise BadValue(f"{option}: {error}") from None
    if option == "--template" and not found.image:
        raise BadValue(f"{option}: process {text} has no image; give --pid for any other process")
    return found


def fleet_of(arguments: argparse.Namespace) -> Fleet:
    from clonal.plan.question import Fleet

    found: dict[str, Any] = {"same": arguments.same, "execs": arguments.exec}
    parsers = {"written": parse_share, "refcounts": parse_share, "read": parse_share, "lifetime": parse_time}
    parsers |= {"rate": parse_size, "clones": whole, "starts": number}
    for name in FLEET:
        text = getattr(arguments, name)
        if text is not None:
            found[name] = parsers[name](text, f"--{name}")
    return Fleet(**found)


def host_of(arguments: argparse.Namespace, server: Server) -> Host:
    """This machine, changed by what is given; another one if its RAM is."""
    from dataclasses import replace

    from clonal.plan.question import Host, this_host

    given: dict[str, Any] = {}
    for option in HOST:
        name = option.replace("-", "_")
        text = getattr(arguments, name)
        if text is not None:
            sizes = ("ram", "swap", "used", "committed", "limit")
            given[name] = parse_size(text, f"--{option}") if name in sizes else whole(text, f"--{option}")
    here = this_host(len(os.sched_getaffinity(0)))
    if "ram" in given:
        return Host(**({"cores": here.cores} | given))
    if any(getattr(arguments, name) is not None for name in MEASURED):  # what runs here is in use already
        here = without(here, server)
    return replace(here, **given)


def without(host: Host, server: Server) -> Host:
    """The machine with one server less on it."""
    from dataclasses import replace

    used = max(0, host.used - server.heap - server.image)
    return replace(host, used=used, committed=max(0, host.committed - server.committed))


def costs_of(arguments: argparse.Namespace) -> Costs:
    from clonal.plan import store

    changes = {}
    for text in arguments.cost:
        name, equals, value = text.partition("=")
        if not equals:
            raise BadValue(f"--cost: {text!r} sets nothing; write NAME=NS, such as copy=2000, or list")
        changes[name.strip()] = number(value, f"--cost {name}")
    costs = store.load()
    try:
        return costs.replaced(changes)
    except BadValue as error:
        raise BadValue(f"--cost: {error}") from None


def whole(text: str, option: str) -> int:
    """A whole number. Raises BadValue."""
    try:
        return int(text.replace("_", ""))
    except ValueError:
        raise BadValue(f"{option}: {text!r} is no whole number") from None


def number(text: str, option: str) -> float:
    """A number. Raises BadValue."""
    try:
        return float(text)
    except ValueError:
        raise BadValue(f"{option}: {text!r} is no number") from None


def list_costs() -> int:
    from clonal.plan import store
    from clonal.plan.costs import NAMES

    costs = store.load()
    print(costs.origin.sentence())
    for name in NAMES:
        print(f"{name:12} {getattr(costs, name):,.6g}")
    return 0


def calibrate(arguments: argparse.Namespace) -> None:
    """Measures and keeps the costs of this machine."""
    from clonal.plan import store
    from clonal.plan.calibrate import calibrate as measured

    with progress_line() as progress:
        costs = measured(progress)
    path = store.save(costs)
    if not arguments.json:
        print(f"{costs.origin.sentence()}; kept in {path}")
        for note in costs.origin.notes:
            print(f"note: {note}")
    elif not _asked(arguments):
        print(json.dumps(costs.to_json(), indent=1))


@contextlib.contextmanager
def progress_line() -> Iterator[Any]:
    """One line on a terminal that says what is being done."""
    out = console(sys.stderr)
    if not out.is_terminal:
        yield lambda what: None
        return
    with out.status("") as status:
        yield status.update


def sweep(arguments: argparse.Namespace) -> int:
    from clonal.plan.sweep import SIMULATED, Point, combinations, parse

    axes = parse(arguments.sweep, SWEPT)
    points = []
    with progress_line() as progress:
        for values in combinations(axes):
            progress(" ".join(f"{axis.name}={value}" for axis, value in zip(axes, values, strict=True)))
            changed = argparse.Namespace(**vars(arguments))
            for axis, value in zip(axes, values, strict=True):
                setattr(changed, axis.name.replace("-", "_"), value)
            points.append(Point(values, plan_of(changed, SIMULATED)))
    report_sweep(axes, points, arguments)
    return 0


def report(plan: Plan, arguments: argparse.Namespace) -> None:
    from clonal.plan import draw, page, show
    from clonal.plan.advice import advise

    if arguments.plot is not None:
        draw.save(plan, arguments.plot)
    if arguments.html is not None:
        write(arguments.html, page.page(plan))
    if arguments.json:
        print(json.dumps(plan.to_json() | {"advice": [each.to_json() for each in advise(plan)]}, indent=1))
    else:
        out = console()
        for line in show.question(plan):
            out.print(line, markup=False)
        for part in show.tables(plan):
            out.print(f"\n[bold]{part.title}[/bold]")
            out.print(table(part.columns, part.rows, part.emphasis))
        out.print()
        if found := show.changes(plan):
            out.print("[bold]What to change, and what that is predicted to do[/bold]")
        for each in found:
            out.print(f"  {each.what}: {each.prediction}\n    {each.how}", markup=False)
        out.print()
        for line in show.notes(plan):
            out.print(line, markup=False)


def report_sweep(axes: Sequence[Axis], points: Sequence[Point], arguments: argparse.Namespace) -> None:
    from clonal.plan import draw, page, show

    if arguments.plot is not None:
        draw.save_sweep(axes, points, arguments.plot)
    if arguments.html is not None:
        write(arguments.html, page.sweep_page(axes, points))
    if arguments.json:
        print(json.dumps([point.to_json(axes) for point in points], indent=1))
    else:
        out = console()
        for line in show.question(points[0].plan):
            out.print(line, markup=False)
        found = show.sweep_table(axes, points)
        out.print(f"\n[bold]{found.title}[/bold]")
        out.print(table(found.columns, found.rows))
