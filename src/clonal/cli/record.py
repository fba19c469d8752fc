"""`clonal record`: runs a command and records every copy-on-write fault of its Python processes."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from clonal.cli.main import Parser, UserMistake
from clonal.observe.record.file import LIMIT, BadRecording, is_recording
from clonal.report.words import duration, parse_size, size

USAGE = "clonal record [-o FILE] [options] -- COMMAND [ARGUMENTS]"
RUNNING = "clonal record [-o FILE] [options] --pid PID [--duration SECONDS]"
PAGE = 4096
SIGTRAP, BPF, SNAPSHOT = "sigtrap", "bpf", "snapshot"


def parser() -> Parser:
    """The verb's command line."""
    made = Parser(
        prog="clonal record",
        usage=f"{USAGE}\n       {RUNNING}",
        description="Records every copy-on-write fault of the Python processes of a command, or of processes "
        "that run already: the line of Python, what was written, and of which object. Nothing is changed.",
        epilog="Then: clonal report FILE. A process is recorded from its first fork on, as parent or child.",
    )
    made.add_argument("-o", "--output", type=Path, metavar="FILE", help="the recording (clonal-PID.rec)")
    made.add_argument("--limit", metavar="SIZE", default="512M", help="of the recording; the rest is counted")
    made.add_argument(
        "--backend",
        choices=("auto", SIGTRAP, BPF, SNAPSHOT),
        default="auto",
        help="a signal for each fault, the kernel by eBPF, or page maps: no lines (auto: the best that is "
        "allowed)",
    )
    made.add_argument(
        "--pid", action="append", metavar="PID|NAME", help="a running process, and all that it starts"
    )
    made.add_argument("--duration", type=float, metavar="SECONDS", help="of --pid (until Ctrl-C)")
    made.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return made


def main(argv: Sequence[str]) -> int:
    arguments = parser().parse_args(argv)
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    output = arguments.output or Path(f"clonal-{os.getpid()}.rec")
    limit = parse_size(arguments.limit, "--limit")
    if arguments.pid:
        return running(arguments, command, output, limit)
    if arguments.duration is not None:
        raise UserMistake("--duration is of --pid: a command is recorded until it ends")
    check(command, output)
    backend = chosen(arguments.backend)
    each = cost(backend)
    status = run(command, output, limit, backend)
    report(output, each)
    return status


def run(command: Sequence[str], output: Path, limit: int = LIMIT, backend: str = SIGTRAP) -> int:
    """Records it; its exit status."""
    from clonal.observe.record.run import CannotBegin, record

    try:
        return record(command, output, limit, backend)
    except CannotBegin as error:
        raise UserMistake(str(error)) from None


def running(arguments: argparse.Namespace, command: Sequence[str], output: Path, limit: int) -> int:
    """Records processes that run already."""
    if command:
        raise UserMistake("give --pid or a command, not both")
    if arguments.duration is not None and not 0 < arguments.duration < float("inf"):
        raise UserMistake("--duration must be a number of seconds above 0")
    if reason := _unwritable(output):
        raise UserMistake(f"{output}: {reason}; give another file with -o")
    from clonal.observe.record.run import CannotBegin
    from clonal.observe.record.running import record_running

    pids = [_process(text) for text in arguments.pid]
    backend, each = chosen_for_running(arguments.backend)
    until = "" if arguments.duration else " until Ctrl-C"

    def begins(processes: int) -> None:
        count = "1 process" if processes == 1 else f"{processes:,} processes"
        print(f"clonal record: recording {count}{until}", file=sys.stderr, flush=True)

    try:
        record_running(pids, output, limit, backend, arguments.duration, begins)
    except CannotBegin as error:
        raise UserMistake(str(error)) from None
    report(output, each)
    return 0


def _process(text: str) -> int:
    """One that may be looked into, by its number or name."""
    from clonal.cli.map import pid_of
    from clonal.observe.family import Unreadable
    from clonal.observe.family import check as check_process

    pid = pid_of(text)
    try:
        check_process(pid)
    except Unreadable as error:
        raise UserMistake(str(error)) from None
    return pid


def chosen_for_running(wanted: str) -> tuple[str, float | None]:
    """The backend for processes that run already, and what a copy costs more."""
    from clonal.observe.record import bpf
    from clonal.observe.record.trap import CannotRecord

    if wanted == SIGTRAP:
        raise UserMistake("--backend sigtrap is loaded into a process as it starts: with --pid use bpf")
    if wanted == SNAPSHOT:
        return SNAPSHOT, None
    try:
        return BPF, bpf.cost()
    except CannotRecord as error:
        if wanted == BPF:
            raise
        print(
            f"clonal record: {error}; pages are counted from outside, without lines, causes and types",
            file=sys.stderr,
        )
        return SNAPSHOT, None


def cost(backend: str) -> float | None:
    """Nanoseconds that a recorded copy takes more; None where none is recorded by itself. Raises
    CannotRecord."""
    if backend == BPF:
        from clonal.observe.record import bpf

        return bpf.cost()
    from clonal.observe.record import trap

    return trap.cost() if backend == SIGTRAP else None


def chosen(wanted: str) -> str:
    """The backend: what was asked for, or the best that this machine allows; what is lost is said."""
    from clonal.observe.record import trap

    if wanted in (SNAPSHOT, BPF):
        return wanted
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
        raise UserMistake(f"{shlex.quote(command[0])}: no such command{_meant(command[0])}")
    if reason := _unwritable(output):
        raise UserMistake(f"{output}: {reason}; give another file with -o")


def _meant(name: str) -> str:
    """What was probably meant by a name that is no command."""
    if not name or not os.path.isfile(name):
        return ""
    quoted = shlex.quote(name)
    return (
        f"; give python {quoted}" if name.endswith(".py") else f"; give its interpreter, or chmod +x {quoted}"
    )


def _unwritable(output: Path) -> str:
    """Why a recording cannot, or should not, be written there; "" if it can."""
    folder = output.absolute().parent
    if os.path.isdir(output):
        return "is a folder"
    if not os.path.isdir(folder):
        return f"there is no folder {folder}"
    if not os.access(folder, os.W_OK):
        return f"this user may not write to {folder}"
    if not os.path.exists(output):
        return ""
    if not os.path.isfile(output):
        return "is no regular file"
    if not os.access(output, os.R_OK) or (output.stat().st_size and not is_recording(output)):
        return "is there, is no recording, and is not overwritten"
    return ""


def report(output: Path, each: float | None) -> None:
    """What was recorded, to standard error: standard output is the command's."""
    from clonal.observe.analyse import load

    try:
        found = load(output)
    except (BadRecording, OSError) as error:
        print(f"clonal record: what was recorded cannot be read: {error}", file=sys.stderr)
        return
    if found.empty:
        print(f"clonal record: {found.empty}", file=sys.stderr)
        return
    from clonal.observe.report.summary import plural, shortcomings

    for note in shortcomings(found):
        print(f"clonal record: {note}", file=sys.stderr)
    copies, own = found.copied(own=False), found.copied(own=True)
    print(
        f"clonal record: {copies:,} pages copied ({size(copies * PAGE)}) in "
        f"{plural(len(found.processes), 'process')}; recording {_took(each)}copied {own:,} pages itself\n"
        f"clonal record: {output} has them; clonal report {shlex.quote(str(output))} tells of them",
        file=sys.stderr,
    )


def _took(each: float | None) -> str:
    if each is None:
        return ""
    return (
        f"took {duration(each) + ' more' if each else 'no time that could be measured'} for each copy, and "
    )
