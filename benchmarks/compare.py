"""Runs `clonal bench` with its defaults and stores what the README shows: results/bench.{json,md,png}.

python benchmarks/compare.py [--rounds N] [--sizes 64M,512M,2G]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from clonal.bench import draw, show
from clonal.bench.results import Results
from clonal.bench.run import run
from clonal.cli.bench import parser, progress_line, settings_of
from clonal.report import plot

RESULTS = Path(__file__).resolve().parent / "results"


def main(argv: Sequence[str]) -> int:
    options = argparse.ArgumentParser(description="Compare all strategies; store what the README shows.")
    options.add_argument("--rounds", default="5")
    options.add_argument("--sizes", default="64M,512M,2G")
    chosen = options.parse_args(argv)
    settings = settings_of(parser().parse_args(["--rounds", chosen.rounds, "--sizes", chosen.sizes]))
    with progress_line() as progress:
        results = run(settings, progress)
    show.show(results)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "bench.json").write_text(json.dumps(results.to_json(), indent=1) + "\n", "utf-8")
    (RESULTS / "bench.md").write_text("\n".join(markdown(results)) + "\n", "utf-8")
    plot.save(draw.plot(results), RESULTS / "bench.png")
    return 0


def markdown(results: Results) -> Iterator[str]:
    for table in show.tables(results):
        yield f"## {table.title}\n"
        yield "| " + " | ".join(table.columns) + " |"
        yield "|" + " --- |" * len(table.columns)
        yield from ("| " + " | ".join(row) + " |" for row in table.rows)
        yield ""
    yield from (f"- {note}" for note in show.notes(results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
