"""`clonal map`: which memory the processes of a family share, and with whom."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clonal.cli.main import Parser, UserMistake, require
from clonal.cli.outputs import check_file, write
from clonal.kernel.machine import supported
from clonal.report.table import console, table

if TYPE_CHECKING:
    from clonal.observe.sharing import FamilySharing, Snapshot


def parser() -> Parser:
    """The verb's command line."""
    made = Parser(
        prog="clonal map",
        usage="clonal map PID|NAME… [--json | --prometheus] [--html FILE.html]",
        description="Which memory these processes, and all that descend from them, share, and with whom: by "
        "process, by kind of memory, page by page.",
        epilog="As root by page frames; else by the exclusive bit of each page, and the output says what is "
        "not known then. Processes of others need root.",
    )
    made.add_argument(
        "pids", nargs="+", metavar="PID|NAME", help="a process, or its program's name; descendants too"
    )
    output = made.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print all figures as JSON")
    output.add_argument("--prometheus", action="store_true", help="print them for Prometheus")
    made.add_argument("--html", type=Path, metavar="FILE.html", help="write a map of every page, coloured")
    return made


def main(argv: Sequence[str]) -> int:
    arguments = parser().parse_args(argv)
    require("numpy", "observe")
    if reason := supported("map"):
        raise UserMistake(reason)
    if arguments.html is not None:
        check_file(arguments.html, ".html")
    taken = look([pid_of(text) for text in arguments.pids], arguments.html is not None)
    family = taken.summary()
    if arguments.json:
        print(json.dumps(family.to_json(), indent=1))
    elif arguments.prometheus:
        from clonal.observe import prometheus

        print(prometheus.text(family), end="")
    elif arguments.html is None:
        show(family)
    if arguments.html is not None:
        from clonal.observe.page_map import page

        write(arguments.html, page(taken))
    for problem in family.problems:
        print(f"clonal: {problem} (its figures are missing, or partial)", file=sys.stderr)
    return 0


def pid_of(text: str) -> int:
    """The process of this number, or of this name."""
    if re.fullmatch(r"[0-9]{1,9}", text):
        return int(text)
    if not text or re.fullmatch(r"[-+]?[0-9.]+", text):
        raise UserMistake(f"{text!r} is no process number")
    from clonal.observe.named import NotNamed, find

    try:
        return find(text)
    except NotNamed as error:
        raise UserMistake(str(error)) from None


def look(pids: Sequence[int], index: bool) -> Snapshot:
    """Reads the family, without this process itself (a shell that is mapped has it as a child)."""
    from clonal.observe.family import Unreadable
    from clonal.observe.sharing import snapshot

    try:
        return snapshot(pids, without=[os.getpid()], index=index)
    except Unreadable as error:
        raise UserMistake(str(error)) from None


def show(family: FamilySharing) -> None:
    from clonal.observe import table as tables

    out = console()
    for line in tables.headline(family):
        out.print(line, markup=False)
    for part in tables.tables(family, out.width):
        out.print(f"\n[bold]{part.title}[/bold]")
        out.print(table(part.columns, part.rows))
