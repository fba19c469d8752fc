"""`clonal top`: a family live, or one sample of it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clonal.cli.main import EXTRA, Parser, UserMistake, require
from clonal.cli.map import pid_of
from clonal.kernel.machine import supported
from clonal.report.table import console
from clonal.report.words import parse_time

if TYPE_CHECKING:
    from clonal.observe.top.sampler import Sample, Sampler

SHORTEST, LONGEST = 0.1, 3600.0


def parser() -> Parser:
    """The verb's command line."""
    made = Parser(
        prog="clonal top",
        usage="clonal top [PID|NAME] [--interval TIME] [--once] [--json]",
        description="A process and all that descend from it, live: what each shares, has alone and copies, "
        "how it grows and faults. Without one all families of forked processes that you may see.",
        epilog="? shows the keys. Processes of others need root.",
    )
    made.add_argument("pid", nargs="?", metavar="PID|NAME", help="a process, its program's name, or template")
    made.add_argument("--interval", metavar="TIME", default="1s", help="between samples (1s)")
    made.add_argument("--once", action="store_true", help="print one sample, with rates over one interval")
    made.add_argument("--json", action="store_true", help="print a sample a line, until interrupted")
    return made


def main(argv: Sequence[str]) -> int:
    arguments = parser().parse_args(argv)
    require("numpy", "observe")
    if reason := supported("top"):
        raise UserMistake(reason)
    interval = parse_time(arguments.interval, "--interval")
    if not SHORTEST <= interval <= LONGEST:
        raise UserMistake(f"--interval: give between 100ms and 1h, not {arguments.interval}")
    pid = None if arguments.pid is None else pid_of(arguments.pid)
    sampler = _sampler(pid, whole=arguments.once)
    if not (arguments.once or arguments.json):
        require("textual", EXTRA)
        streams = (sys.stdin, sys.stdout, sys.stderr)  # on the last one textual draws
        if not all(stream is not None and stream.isatty() for stream in streams):
            raise UserMistake("the live view needs a terminal: use --once or --json elsewhere")
        from clonal.observe.top.app import TopApp

        app = TopApp(sampler, interval)
        app.run()
        return app.return_code or 0
    return _print(sampler, interval, arguments.once, arguments.json)


def _sampler(pid: int | None, whole: bool) -> Sampler:
    """`whole`: every member's memory is read in each sample, whatever it takes."""
    from clonal.observe.family import Unreadable
    from clonal.observe.top.sampler import BUDGET, Sampler

    try:
        return Sampler(pid, float("inf") if whole else BUDGET)
    except Unreadable as error:
        raise UserMistake(str(error)) from None


def _print(sampler: Sampler, interval: float, once: bool, as_json: bool) -> int:
    """One sample, or one after the other until all have ended."""
    sampler.sample()
    while True:
        time.sleep(interval)
        sample = sampler.sample()
        if sampler.watch.pid is not None and not sample.rows:
            print(f"clonal: process {sampler.watch.pid} and all below it have ended", file=sys.stderr)
            return 1 if once else 0
        if as_json:
            print(json.dumps(sample.to_json()), flush=True)
        else:
            show(sample, sampler.watch.pid)
        if once:
            return 0


def show(sample: Sample, pid: int | None) -> None:
    """As a table."""
    from clonal.observe.top.columns import COLUMNS, FIGURES, cells, label, totals
    from clonal.observe.top.words import packed, strain_words, who

    out = console()
    out.print(who(sample, pid), markup=False)
    for line in packed(strain_words(sample.strain), out.width):
        out.print(line, markup=False)
    out.print()
    room = max(12, min(50, out.width - FIGURES))
    rows = [("member".ljust(room), [column.heading for column in COLUMNS], "bold")]
    rows += [(label(row, room, tree=True), cells(row), "") for row in sample.rows]
    for name, figures, style in [*rows, ("all".ljust(room), totals(sample), "bold green")]:
        texts = (text.rjust(column.width) for column, text in zip(COLUMNS, figures, strict=True))
        out.print(name + "".join(texts), style=style, markup=False, no_wrap=True)
    for problem in sorted({f"{row.pid}: {row.problem}" for row in sample.rows if row.problem}):
        out.print(f"Not known of process {problem}", markup=False)
    if sample.hidden and pid is None:
        why = "they have rights that root lacks here" if os.geteuid() == 0 else "root sees them"
        out.print(f"Processes of others that are not shown: {sample.hidden} ({why})", markup=False)
