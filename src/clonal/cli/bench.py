"""`clonal bench`: cloning strategies timed side by side on this machine."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from clonal.bench import draw, show
from clonal.bench.results import Results
from clonal.bench.run import Progress, Settings, run
from clonal.bench.strategies import ARTICLE, FLOOR, STRATEGIES
from clonal.cli.main import Parser, UserMistake
from clonal.cli.outputs import check_file, write
from clonal.kernel import machine
from clonal.report import plot
from clonal.report.words import parse_size


def parser() -> Parser:
    """The verb's command line."""
    made = Parser(
        prog="clonal bench",
        usage="clonal bench [options]",
        description="Every way of starting a Python process, timed side by side.",
        epilog="Each strategy runs in processes of its own; rounds are interleaved, figures are medians.",
    )
    made.add_argument("--sizes", metavar="SIZES", help="heap sizes, by commas (64M,512M,2G)")
    made.add_argument("--strategies", metavar="NAMES", help="only these, by commas; `list` lists them")
    made.add_argument("--rounds", type=int, metavar="N", help="how many interleaved rounds (5)")
    made.add_argument("--json", action="store_true", help="print the results as JSON")
    made.add_argument("--plot", type=Path, metavar="FILE.png", help="draw them (needs matplotlib)")
    made.add_argument("--html", type=Path, metavar="FILE.html", help="write a self-contained page")
    made.add_argument("--quick", action="store_true", help="a tiny heap and two rounds, to see that it works")
    return made


def main(argv: Sequence[str]) -> int:
    arguments = parser().parse_args(argv)
    if reason := machine.supported("bench"):
        raise UserMistake(reason)
    if arguments.strategies == "list":
        return list_strategies()
    settings = settings_of(arguments)
    check_outputs(arguments)
    with progress_line() as progress:
        results = run(settings, progress)
    report(results, arguments)
    return 0


def report(results: Results, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(json.dumps(results.to_json(), indent=1))
    else:
        show.show(results)
    if arguments.plot is not None:
        plot.save(draw.plot(results), arguments.plot)
    if arguments.html is not None:
        write(arguments.html, draw.page(results))


def settings_of(arguments: argparse.Namespace) -> Settings:
    settings = Settings()
    if arguments.sizes is not None:
        sizes = {parse_size(size, "--sizes") for size in arguments.sizes.split(",")}
        settings = replace(settings, sizes=tuple(sorted(sizes)))
    if arguments.strategies is not None:
        settings = replace(settings, strategies=tuple(arguments.strategies.split(",")))
    if arguments.quick:
        settings = settings.quick()
    if arguments.rounds is not None:
        settings = replace(settings, rounds=arguments.rounds)
    settings.check()
    return settings


def check_outputs(arguments: argparse.Namespace) -> None:
    """A run takes minutes: refuse before it what could not be written after it."""
    if arguments.plot is not None:
        plot.require()
    for path, suffix in ((arguments.plot, ".png"), (arguments.html, ".html")):
        if path is not None:
            check_file(path, suffix)


def list_strategies() -> int:
    for strategy in STRATEGIES.values():
        print(f"{strategy.name:15} {strategy.what}")
    print(f"{FLOOR:15} fork and vfork of a minimal C program")
    print(f"{ARTICLE:15} the script that claims to time fork, and the forks it makes")
    return 0


@contextlib.contextmanager
def progress_line() -> Iterator[Progress]:
    """One line on the terminal that says what is being measured; silent where there is none."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _what: None
        return
    with console.status("clonal bench") as status:
        yield status.update
