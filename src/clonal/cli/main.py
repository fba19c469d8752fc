"""The `clonal` command: finds the verb and gives it the rest of the line.

argparse, because it is loaded in 6 ms: typer and cyclopts take 60 to 100 ms, longer than the whole
of what `clonal run` has to do. Each verb is one module with `main(argv) -> exit status`, imported
only when it is asked for.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import clonal

VERBS = {
    "run": "run a script in N fresh clones of a warm template",
    "explain": "what the kernel does with memory, step by step: the model and this kernel",
    "plan": "how many clones fit; latency, memory, storms, OOM",
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
    made.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    try:
        return _dispatch(list(sys.argv[1:] if argv is None else argv))
    except UserMistake as mistake:
        print(f"clonal: {mistake}", file=sys.stderr)
        return USAGE
    except clonal.Error as error:
        print(f"clonal: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("clonal: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # `clonal … | head`: nobody reads on, which is not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that the flush at exit does not fail again
        return 128 + signal.SIGPIPE


def _dispatch(argv: list[str]) -> int:
    arguments = parser().parse_args(argv)
    if arguments.verb is None:
        parser().print_help()
        return 0
    if arguments.verb not in VERBS:
        raise UserMistake(f"no verb {arguments.verb!r}; there are {', '.join(VERBS)}")
    require("rich", EXTRA)
    status: int = importlib.import_module(f"clonal.cli.{arguments.verb}").main(arguments.rest)
    sys.stdout.flush()
    return status


def require(module: str, extra: str) -> None:
    """A clear line where an optional dependency is not installed."""
    if importlib.util.find_spec(module) is None:
        raise UserMistake(f"{module} is not installed: pip install 'clonal[{extra}]'")


if __name__ == "__main__":
    from clonal.cli import main as imported  # the verbs raise that module's UserMistake, not __main__'s

    sys.exit(imported.main())
