"""`clonal bench`: cloning strategies timed side by side on this machine."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from clonal.errors import Error

if TYPE_CHECKING:
    from clonal.bench.run import Progress, Settings

HELP = "time cloning strategies side by side on this machine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", default=None, metavar="64M,512M,2G", help="heap sizes to compare")
    parser.add_argument(
        "--strategies",
        default=None,
        metavar="A,B",
        help="only these; `list` lists them",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=None,
        metavar="N",
        help="interleaved rounds (default 7)",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument(
        "--plot",
        type=Path,
        default=None,
        metavar="FILE.png",
        help="draw them (needs matplotlib)",
    )
    parser.add_argument(
        "--html",
        type=Path,
        default=None,
        metavar="FILE.html",
        help="write a self-contained page",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="tiny heap, two rounds: to see that it works",
    )


def run(args: argparse.Namespace) -> int:
    from clonal.bench import draw, machine, show
    from clonal.bench.run import run as run_benchmark
    from clonal.report import plot

    if reason := machine.supported():
        raise Error(reason)
    if args.strategies == "list":
        return list_strategies()
    settings = settings_of(args)
    check_output(args.plot, ".png")
    check_output(args.html, ".html")
    if args.plot is not None:
        plot.require()
    with progress_line() as progress:
        results = run_benchmark(settings, progress)
    if args.json:
        print(json.dumps(results.to_json(), indent=1))
    else:
        show.show(results)
    if args.plot is not None:
        plot.save(draw.plot(results), args.plot)
    if args.html is not None:
        args.html.write_text(draw.page(results), "utf-8")
    return 0


def settings_of(args: argparse.Namespace) -> Settings:
    from dataclasses import replace

    from clonal.bench.run import Settings
    from clonal.bench.words import parse_size

    settings = Settings()
    if args.sizes is not None:
        settings = replace(
            settings,
            sizes=tuple(sorted({parse_size(size) for size in args.sizes.split(",")})),
        )
    if args.strategies is not None:
        settings = replace(settings, strategies=tuple(args.strategies.split(",")))
    if args.quick:
        settings = settings.quick()
    if args.rounds is not None:
        settings = replace(settings, rounds=args.rounds)
    settings.check()
    return settings


def check_output(path: Path | None, suffix: str) -> None:
    """A run takes minutes: refuse before it what could not be written after it."""
    if path is None:
        return
    if path.suffix != suffix:
        raise Error(f"{path}: write a file whose name ends in {suffix}")
    if not path.absolute().parent.is_dir():
        raise Error(f"{path}: there is no folder {path.absolute().parent}")


def list_strategies() -> int:
    from clonal.bench.strategies import ARTICLE, FLOOR, STRATEGIES

    for strategy in STRATEGIES.values():
        print(f"{strategy.name:15} {strategy.what}")
    print(f"{FLOOR:15} fork and vfork of a minimal C program")
    print(f"{ARTICLE:15} the script that claims to time fork, and the forks it makes")
    return 0


@contextlib.contextmanager
def progress_line() -> Iterator[Progress]:
    """One line on the terminal that says what is being measured; silent where there is none."""
    if not sys.stderr.isatty():
        yield lambda _what: None
        return
    try:
        from rich.console import Console
    except ImportError:
        yield lambda what: print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        return
    with Console(stderr=True).status("clonal bench") as status:
        yield status.update
