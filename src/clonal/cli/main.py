"""The `clonal` command: finds the verb and gives it the rest of the line.

argparse, because it is loaded in 6 ms: typer and cyclopts take 60 to 100 ms, longer than the whole
of what `clonal run` has to do. Each verb is one module with `main(argv) -> exit status`, imported
only when it is asked for.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import clonal
from clonal.cli import letters
from clonal.report.words import BadValue

VERBS = {
    "run": "run a script in N fresh clones of a warm template",
    "map": "which memory a process and its descendants share, and with whom",
    "top": "the same live: growth, faults and copies of each member, strain on the machine",
    "explain": "what the kernel does with memory, step by step: the model and this kernel",
    "plan": "how many clones fit; latency, memory, storms, OOM",
    "record": "every copy-on-write fault of a command, by the line that caused it",
    "report": "what a recording tells: the pages copied, by line and cause; flame graph, source, diff",
    "doctor": "what to change so that more stays shared: evidence, remedy, predicted gain",
    "bench": "every way of starting a Python process, timed side by side",
}
EXTRA = "cli"
USAGE = 2  # exit status of a wrong command line, as argparse has it


class UserMistake(Exception):
    """What the user asked for cannot be; the message is one line that says what to do."""


class Parser(argparse.ArgumentParser):
    """argparse, but a wrong command line gives one line instead of the usage and an error."""

    def error(self, message: str) -> NoReturn:
        raise UserMistake(f"{message} (see {self.prog} --help)")


def parser() -> Parser:
    """The command line up to the verb."""
    lines = "\n".join(f"  {name:8} {summary}" for name, summary in VERBS.items())
    made = Parser(
        prog="clonal",
        usage="clonal VERB [options]",
        description="Clone warm Python processes by copy-on-write.",
        epilog=f"verbs:\n{lines}\n\n`clonal VERB --help` says more of each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=f"clonal {clonal.__version__}")
    made.add_argument("verb", nargs="?", help=argparse.SUPPRESS)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    try:
        return _dispatch(list(sys.argv[1:] if argv is None else argv))
    except (UserMistake, BadValue) as mistake:
        print(f"clonal: {mistake}", file=sys.stderr)
        return USAGE
    except OutputLost as error:
        _let_go_of_output()
        print(f"clonal: {error}", file=sys.stderr)
        return 1
    except clonal.Error as error:
        print(f"clonal: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("clonal: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # `clonal … | head`: nobody reads on, which is not an error
        _let_go_of_output()
        return 128 + signal.SIGPIPE


class OutputLost(clonal.Error):
    """What was printed could not be written: the disk is full, say."""

    def __init__(self, reason: str | None) -> None:
        super().__init__(f"standard output: {reason}", reason=reason)


class _Output(io.FileIO):
    """Standard output, whose failures cannot be taken for those of anything else."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputLost(error.strerror) from None


def _prepare_output() -> None:
    """Letters that it does not have become others like them, or `?`."""
    letters.prepare_errors()
    if sys.stdout is None:
        raise UserMistake("standard output is closed: there is nowhere to print to")
    old = sys.stdout
    if old is sys.__stdout__ and isinstance(old, io.TextIOWrapper):
        raw = io.BufferedWriter(_Output(old.fileno(), "w", closefd=False))
        sys.stdout = io.TextIOWrapper(raw, old.encoding, letters.OUTPUT, line_buffering=old.line_buffering)


def _let_go_of_output() -> None:
    """So that the flush at exit does not fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _dispatch(argv: list[str]) -> int:
    arguments, rest = parser().parse_args(argv[:1]), argv[1:]  # argparse would swallow a -- after the verb
    if arguments.verb is None:
        parser().print_help()
        return 0
    if arguments.verb not in VERBS:
        raise UserMistake(f"no verb {arguments.verb!r}; there are {', '.join(VERBS)}")
    if arguments.verb != "run":  # a script may well do without output, or know what to do with its own
        _prepare_output()
    require("rich", EXTRA)
    try:
        status: int = importlib.import_module(f"clonal.cli.{arguments.verb}").main(rest)
    finally:  # also where --help has ended it
        if sys.stdout is not None:
            sys.stdout.flush()
    return status


def require(module: str, extra: str) -> None:
    """A clear line where an optional dependency is not installed."""
    if importlib.util.find_spec(module) is None:
        raise UserMistake(f"{module} is not installed: pip install 'clonal[{extra}]'")


if __name__ == "__main__":
    from clonal.cli import main as imported  # the verbs raise that module's UserMistake, not __main__'s

    sys.exit(imported.main())
