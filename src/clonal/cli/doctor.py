"""`clonal doctor`: what to change in a program that forks, ranked by what that saves."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from clonal.cli.main import Parser, UserMistake, require
from clonal.kernel.machine import supported
from clonal.report.table import console, counted
from clonal.report.words import size

if TYPE_CHECKING:
    from clonal.observe.analyse import Recording
    from clonal.observe.doctor.finding import Finding

USAGE = (
    "clonal doctor [options] PID|NAME | clonal doctor [options] [--recording FILE] [-- COMMAND [ARGUMENTS]]"
)
ANY = "any"
INCOMPLETE = 2  # exit status where something could not be looked at, or the command has failed
ASKED = tuple(128 + number for number in (signal.SIGINT, signal.SIGTERM))
WIDTH = 100
NOTHING = "clonal doctor: nothing to change: no finding is worth a line"


class Looked(NamedTuple):
    """`notes`: what the findings are not about; `whole`: whether there was nothing amiss."""

    findings: list[Finding]
    notes: list[str]
    whole: bool


def parser() -> Parser:
    """The verb's command line."""
    made = Parser(
        prog="clonal doctor",
        usage=USAGE,
        description="What to change so that more stays shared, and what else endangers a family of forked "
        "processes: each finding with its evidence, a remedy, and the predicted gain.",
        epilog="PID looks at a process and its descendants as they are now; COMMAND is run and recorded, "
        "which tells causes too. --fail-on takes names as they are printed, or any.",
    )
    made.add_argument("--json", action="store_true", help="print the findings as JSON")
    made.add_argument(
        "--fail-on", action="append", default=[], metavar="FINDING|any", help="exit status 1 if it is found"
    )
    made.add_argument("--recording", type=Path, metavar="FILE", help="a recording of `clonal record`")
    made.add_argument(
        "pid", nargs="?", metavar="PID|NAME", help="a process, or its program's name; descendants too"
    )
    return made


def main(argv: Sequence[str]) -> int:
    at = argv.index("--") if "--" in argv else len(argv)
    arguments, command = parser().parse_args(argv[:at]), argv[at + 1 :]
    check(arguments, command if at < len(argv) else None)
    require("numpy", "observe")
    if reason := supported("doctor"):
        raise UserMistake(reason)
    looked = look(arguments, command)
    for note in looked.notes:
        print(f"clonal doctor: {note}", file=sys.stderr)
    if arguments.json:
        found = [each.to_json() for each in looked.findings]
        print(json.dumps({"version": 1, "findings": found, "notes": looked.notes}, indent=1))
    else:
        show(looked.findings)
    names = {name for each in looked.findings for name in each.names}
    if names & set(arguments.fail_on) or (ANY in arguments.fail_on and names):
        return 1
    return 0 if looked.whole else INCOMPLETE


def check(arguments: argparse.Namespace, command: Sequence[str] | None) -> None:
    """Refuses before the work what could not be done after it."""
    from clonal.observe.doctor.finding import NAMES

    for name in arguments.fail_on:
        if name != ANY and name not in NAMES:
            raise UserMistake(f"--fail-on {name}: no such finding; there are {', '.join(NAMES)}, {ANY}")
    given = [each for each in (arguments.pid, arguments.recording, command) if each is not None]
    if len(given) != 1:
        raise UserMistake(f"give a PID, a recording or a command: {USAGE}")


def look(arguments: argparse.Namespace, command: Sequence[str]) -> Looked:
    """At whatever was given."""
    if arguments.pid is not None:
        return of_process(arguments.pid)
    if arguments.recording is None:
        return of_command(command, arguments.json)
    from clonal.cli.report import opened

    return _of(opened(arguments.recording))


def of_process(text: str) -> Looked:
    """Of a family that runs."""
    from clonal.cli.map import pid_of
    from clonal.observe.doctor.examine import of_family
    from clonal.observe.doctor.patient import look
    from clonal.observe.family import Unreadable

    try:
        found, missing = of_family(look(pid_of(text)))
    except (Unreadable, ProcessLookupError, PermissionError) as error:
        raise UserMistake(str(error)) from None
    return Looked(found, missing, not missing)


def of_command(command: Sequence[str], aside: bool) -> Looked:
    """Of a command that is run now; `aside`: what it prints goes to standard error."""
    from clonal.cli.record import check as runnable
    from clonal.cli.record import chosen
    from clonal.observe.analyse import load
    from clonal.observe.record.run import record

    if not command:
        raise UserMistake(f"give the command after --: {USAGE}")
    with tempfile.TemporaryDirectory(prefix="clonal-doctor-") as folder:
        path = Path(folder, "recording.clonal")
        runnable(command, path)
        backend = chosen("auto")
        with _output_aside() if aside else contextlib.nullcontext():
            status = record(command, path, backend=backend)
        recording = load(path)
    return _of(recording, status)


@contextlib.contextmanager
def _output_aside() -> Iterator[None]:
    """What is started meanwhile has standard error for its standard output."""
    own = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(own, 1)
        os.close(own)


def _of(recording: Recording, status: int = 0) -> Looked:
    """The findings, and what they are not about. A command that was asked to end has not failed."""
    from clonal.observe.doctor.examine import of_recording
    from clonal.observe.report.summary import shortcomings

    notes = [f"The command ended with status {status}."] if status else []
    notes += shortcomings(recording)
    if not recording.processes:
        notes.append("No Python process of the command has forked.")
    damaged = recording.truncated or recording.damaged or recording.unreadable
    return Looked(of_recording(recording), notes, not damaged and status in (0, *ASKED))


def show(found: Sequence[Finding]) -> None:
    out = console()
    for line in text(found):
        out.print(line, markup=False, soft_wrap=True)


def text(found: Sequence[Finding]) -> Iterator[str]:
    """The findings as they are printed."""
    if not found:
        yield NOTHING
        return
    saved = sum(each.gain or 0 for each in found)
    gain = f", predicted to save {size(saved)}" if saved else ""
    yield f"clonal doctor: {counted(len(found), 'finding')}{gain}"
    for number, each in enumerate(found, 1):
        yield ""
        yield f"{number}. {', '.join((each.name, *each.also))}: {each.what}"
        for fact in each.evidence:
            told = f"{fact.text} ({fact.source})"
            yield textwrap.fill(told, WIDTH, initial_indent="   ", subsequent_indent="     ")
        yield f"   remedy, {each.remedy.where}:"
        for line in each.remedy.lines:
            yield f"       {line}"
        yield f"   gain: {_gain(each)}"


def _gain(each: Finding) -> str:
    if each.gain is None:
        return each.instead
    return size(each.gain) + (f"; {each.instead}" if each.instead else "")
