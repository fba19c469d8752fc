"""`clonal explain`: what the kernel does with memory, step by step, on the model and on this kernel."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clonal.cli.main import Parser, UserMistake, require
from clonal.cli.outputs import check_file, write
from clonal.errors import Error
from clonal.report.table import console

if TYPE_CHECKING:
    from clonal.explain import Story, Topic
    from clonal.scenario import KernelRunner

WIDTH = 110  # elsewhere than on a terminal


def parser() -> Parser:
    """The verb's command line."""
    made = Parser(
        prog="clonal explain",
        usage="clonal explain [TOPIC] [options]",
        description="What the kernel does with memory, step by step: a page-exact model, and beside it what "
        "this kernel showed just now.",
        epilog="Without TOPIC: the list of topics; with --html a page of all of them, with --json the list.",
    )
    made.add_argument("topic", nargs="?", metavar="TOPIC", help="one of the list")
    made.add_argument("--pause", action="store_true", help="wait after each step (enter; b: back; q: end)")
    made.add_argument("--model", action="store_true", help="the model alone; do not ask this kernel")
    made.add_argument("--json", action="store_true", help="print the pictures and counters as JSON")
    made.add_argument("--html", type=Path, metavar="FILE.html", help="write a page to step through")
    return made


def main(argv: Sequence[str]) -> int:
    arguments = parser().parse_args(argv)
    require("numpy", "model")
    from clonal.explain import TOPICS

    check(arguments)
    if arguments.topic is None and arguments.html is None:
        return list_topics(arguments.json)
    topics = list(TOPICS.values()) if arguments.topic is None else [wanted(arguments.topic)]
    from clonal.explain import tell

    with kernel_or_reason(arguments.model) as (kernel, reason):
        stories = [tell(each, kernel, reason) for each in topics]
    if arguments.html is not None:
        from clonal.explain.page import page

        write(arguments.html, page(stories))
    if arguments.json:
        print(
            json.dumps(
                [story.to_json() for story in stories][0 if arguments.topic else slice(None)], indent=1
            )
        )
    elif arguments.html is None:
        show(stories[0], arguments.pause)
    return 0


def check(arguments: argparse.Namespace) -> None:
    """Refuses before the work what could not be done after it."""
    if arguments.pause and (arguments.json or arguments.html or arguments.topic is None):
        raise UserMistake("--pause steps through a topic on the terminal: give a TOPIC, no --json, no --html")
    if arguments.html is not None:
        check_file(arguments.html, ".html")


def wanted(name: str) -> Topic:
    """The topic of this name."""
    from clonal.explain import UnknownTopic, topic

    try:
        return topic(name)
    except UnknownTopic as error:
        raise UserMistake(str(error)) from None


def list_topics(as_json: bool) -> int:
    from clonal.explain import TOPICS

    if as_json:
        print(json.dumps([{"topic": each.name, "title": each.title} for each in TOPICS.values()], indent=1))
        return 0
    for each in TOPICS.values():
        print(f"{each.name:14} {each.title}")
    print("\n`clonal explain TOPIC` tells one; --html FILE.html makes a page of it.")
    return 0


@contextlib.contextmanager
def kernel_or_reason(model_only: bool) -> Iterator[tuple[KernelRunner | None, str]]:
    """The running kernel, or why it takes no part."""
    from clonal.scenario import KernelRunner

    if model_only:
        yield None, "--model was given"
        return
    try:
        runner = KernelRunner()
    except (OSError, Error) as error:
        yield None, str(error)
        return
    with runner:
        yield runner, ""


def show(story: Story, pause: bool) -> None:
    from rich.text import Text

    from clonal.explain import text

    out = console()
    width = min(shutil.get_terminal_size().columns, 130) if out.is_terminal else WIDTH

    def put(lines: Sequence[text.Line]) -> None:
        for line in lines:
            out.print(Text.assemble(*line), soft_wrap=True)

    put(text.heading(story, width))
    index = 0
    while index < len(story.moments):
        put(text.moment(story, index, width))
        step = asked(index) if pause and index + 1 < len(story.moments) else 1
        if not step:
            return
        index += step
    put(text.closing(story, width))


def asked(index: int) -> int:
    """How many steps to go on, as the reader says; 0 at `q` or at the end of the input."""
    back = ", b: back" if index else ""
    print(f"     enter: next step{back}, q: end ", end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline() if sys.stdin is not None else ""
    if not line:
        print(file=sys.stderr)
    word = line.strip().lower()
    return 0 if not line or word == "q" else -1 if word == "b" and index else 1
