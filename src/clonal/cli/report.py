"""`clonal report`: what a recording of copy-on-write faults tells."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clonal.cli.main import Parser, UserMistake
from clonal.cli.outputs import check_file, write
from clonal.errors import Error
from clonal.observe.analyse import CAUSES, Recording, load
from clonal.observe.record.file import BadRecording
from clonal.report.table import console

if TYPE_CHECKING:
    from clonal.observe.report.count import Tally
    from clonal.observe.report.text import Line

EVERYTHING = "*"  # --source without a name
NARROWEST, WIDTH, WIDEST = 60, 80, 110


def parser() -> Parser:
    """The verb's command line."""
    made = Parser(
        prog="clonal report",
        usage="clonal report FILE [view] [options]",
        description="What a recording of `clonal record` tells: the pages copied, by which line, and why.",
        epilog="Without a view: a summary. --flamegraph and --speedscope may be given together.",
    )
    made.add_argument("file", type=Path, metavar="FILE", help="a recording")
    views = made.add_argument_group("views").add_mutually_exclusive_group()
    views.add_argument("--tree", action="store_true", help="callers, and below them what they call")
    views.add_argument("--table", action="store_true", help="every line that copied a page")
    views.add_argument(
        "--source", nargs="?", const=EVERYTHING, metavar="FUNCTION|FILE",
        help="the source, each line with the pages it copied (the functions that copied most)",
    )  # fmt: skip
    views.add_argument("--diff", type=Path, metavar="OTHER", help="what grew and shrank from FILE to OTHER")
    views.add_argument(
        "--folded", action="store_true", help="print folded stacks, for flamegraph.pl and others"
    )
    files = made.add_argument_group("files")
    files.add_argument("--flamegraph", type=Path, metavar="FILE.html", help="a page to zoom and search in")
    files.add_argument("--speedscope", type=Path, metavar="FILE.json", help="for https://www.speedscope.app")
    chosen = made.add_argument_group("what is counted")
    chosen.add_argument("--pid", action="append", default=[], metavar="PID", help="this process only")
    chosen.add_argument(
        "--cause", choices=CAUSES, metavar="CAUSE", help=f"this cause only: {', '.join(CAUSES)}"
    )
    made.add_argument(
        "--json", action="store_true", help="print everything as JSON; with --diff the differences"
    )
    return made


def main(argv: Sequence[str]) -> int:
    arguments = parser().parse_args(argv)
    check(arguments)
    found = counted(arguments.file, arguments)
    write_files(found, arguments)
    if arguments.json:
        print(json.dumps(json_of(found, arguments), indent=1))
    elif arguments.folded:
        from clonal.observe.report.formats import folded

        sys.stdout.writelines(f"{line}\n" for line in folded(found))
    elif _views(arguments) or not (arguments.flamegraph or arguments.speedscope):
        show(lines_of(found, arguments))
    return 0


def _views(arguments: argparse.Namespace) -> bool:
    return bool(arguments.tree or arguments.table or arguments.source or arguments.diff)


def check(arguments: argparse.Namespace) -> None:
    """Refuses before the work what could not be done after it."""
    if arguments.json and (arguments.tree or arguments.table or arguments.source or arguments.folded):
        raise UserMistake("--json has everything: give it alone, or with --diff")
    for path, ending in ((arguments.flamegraph, ".html"), (arguments.speedscope, ".json")):
        if path is None:
            continue
        check_file(path, ending)
        if os.path.exists(path) and os.path.exists(arguments.file) and path.samefile(arguments.file):
            raise UserMistake(f"{path} is the recording itself: give another file")


def counted(path: Path, arguments: argparse.Namespace) -> Tally:
    """The recording's pages, as far as they are asked for."""
    from clonal.observe.report.count import tally

    recording = opened(path)
    pids = {whole(text) for text in arguments.pid}
    missing = pids - recording.processes.keys()
    if missing and path == arguments.file:
        there = ", ".join(map(str, sorted(recording.processes))) or "none"
        raise UserMistake(f"--pid {min(missing)}: there is no such process in {path}; there are {there}")
    return tally(recording, pids or None, arguments.cause)


def whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserMistake(f"--pid: {text!r} is no process id") from None


def opened(path: Path) -> Recording:
    """What is in it, or one line that says why it cannot be read."""
    try:
        return load(path)
    except BadRecording as error:
        raise UserMistake(str(error)) from None
    except OSError as error:
        raise UserMistake(f"{path}: {error.strerror}") from None


def write_files(found: Tally, arguments: argparse.Namespace) -> None:
    if arguments.flamegraph is not None:
        from clonal.observe.report.flame import page

        write(arguments.flamegraph, page(found))
    if arguments.speedscope is not None:
        from clonal.observe.report.formats import speedscope

        write(arguments.speedscope, json.dumps(speedscope(found), separators=(",", ":")))


def json_of(found: Tally, arguments: argparse.Namespace) -> object:
    from clonal.observe.report.diff import as_json as differences
    from clonal.observe.report.formats import as_json

    if arguments.diff is None:
        return as_json(found)
    return differences(found, counted(arguments.diff, arguments))


def lines_of(found: Tally, arguments: argparse.Namespace) -> Iterable[Line]:
    """The view that was asked for."""
    width = columns(WIDEST if arguments.source or arguments.tree else WIDTH)
    if arguments.tree:
        from clonal.observe.report import tree

        return tree.text(found, width)
    if arguments.table:
        from clonal.observe.report.table import table

        return table(found)
    if arguments.source:
        from clonal.observe.report.source import source

        try:
            return source(found, None if arguments.source == EVERYTHING else arguments.source, width)
        except Error as error:
            raise UserMistake(str(error)) from None
    if arguments.diff:
        from clonal.observe.report.diff import text

        return text(found, counted(arguments.diff, arguments), width)
    from clonal.observe.report.summary import summary

    return summary(found, width)


def columns(elsewhere: int) -> int:
    """As wide as the terminal, within what can be read; so wide `elsewhere`."""
    if not sys.stdout.isatty():
        return elsewhere
    return min(max(shutil.get_terminal_size().columns, NARROWEST), WIDEST)


def show(lines: Iterable[Line]) -> None:
    from rich.text import Text

    out = console()
    for line in lines:
        text = Text.assemble(*line)
        text.rstrip()
        out.print(text, soft_wrap=True)
