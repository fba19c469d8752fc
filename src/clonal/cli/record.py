"""`clonal record`: runs a command and records every copy-on-write fault of its Python processes."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clonal.cli.main import Parser, UserMistake
from clonal.report.words import duration, parse_size, size

if TYPE_CHECKING:
    from clonal.observe.analyse import Recording

USAGE = "clonal record [-o FILE] [options] -- COMMAND [ARGUMENTS]"
PAGE = 4096
SIGTRAP, SNAPSHOT = "sigtrap", "snapshot"


def parser() -> Parser:
    """The verb's command line."""
    made = Parser(
        prog="clonal record",
        usage=USAGE,
        description="Runs a command and records every copy-on-write fault of its Python processes: the line "
        "of Python, what was written, and of which object. The command is not changed.",
        epilog="Then: clonal report FILE. A process is recorded from its first fork on, as parent or child.",
    )
    made.add_argument("-o", "--output", type=Path, metavar="FILE", help="the recording (clonal-PID.rec)")
    made.add_argument("--limit", metavar="SIZE", default="512M", help="of the recording; the rest is counted")
    made.add_argument(
        "--backend",
        choices=("auto", SIGTRAP, SNAPSHOT),
        default="auto",
        help="a signal for each fault, or the page map at the end: no lines (auto: the first, if allowed)",
    )
    made.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return made


def main(argv: Sequence[str]) -> int:
    arguments = parser().parse_args(argv)
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    output = arguments.output or Path(f"clonal-{os.getpid()}.rec")
    limit = parse_size(arguments.limit, "--limit")
    check(command, output)
    from clonal.observe.record import trap
    from clonal.observe.record.run import record

    backend = chosen(arguments.backend)
    each = trap.cost() if backend == SIGTRAP else 0.0
    status = record(command, output, limit, backend)
    report(output, each)
    return status


def chosen(wanted: str) -> str:
    """The backend: what was asked for, or the best that this machine allows; what is lost is said."""
    from clonal.observe.record import trap

    if wanted == SNAPSHOT:
        return SNAPSHOT
    try:
        trap.require()
    except trap.CannotRecord as error:
        if wanted == SIGTRAP:
            raise
        print(
            f"clonal record: {error}; pages are counted at the end, without lines, causes and types",
            file=sys.stderr,
        )
        return SNAPSHOT
    return SIGTRAP


def check(command: Sequence[str], output: Path) -> None:
    """Refuses before the work what could not be done after it."""
    if not command:
        raise UserMistake(f"give the command to record: {USAGE}")
    if shutil.which(command[0]) is None:
        raise UserMistake(f"{command[0]}: no such command")
    if output.is_dir() or not os.access(output.absolute().parent, os.W_OK):
        raise UserMistake(f"{output}: cannot be written; give another file with -o")


def report(output: Path, each: float) -> None:
    """One line of what was recorded, to standard error: standard output is the command's."""
    from clonal.observe.analyse import load

    found = load(output)
    copies = found.by_program
    own = len(found.by_recording)
    print(
        f"clonal record: {len(copies):,} pages copied ({size(len(copies) * PAGE)}) in "
        f"{len(found.processes):,} processes; {_besides(found)}"
        f"recording {_took(each)}copied {own:,} pages itself\n"
        f"clonal record: {output} has them; clonal report {output} tells of them",
        file=sys.stderr,
    )


def _took(each: float) -> str:
    return f"took {duration(each)} more for each copy, and " if each else ""


def _besides(found: Recording) -> str:
    lost = sum(process.lost for process in found.processes.values())
    failed = [process for process in found.processes.values() if process.failed]
    text = f"{lost:,} not recorded (too many at once, or the file is full); " if lost else ""
    return text + (f"process {failed[0].pid} could not be recorded: {failed[0].failed}; " if failed else "")
