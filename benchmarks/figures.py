"""Measures every figure that Clonal is to reach, as ratios taken in one run; stores them in results/.

    python benchmarks/figures.py [--only KEY,…] [--rounds N] [--python311 PATH]

Exits 0 whatever the figures are: they are information, and depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rows import GROUPS
from stand import Stand
from targets import TARGETS, Figure, number

from clonal.bench.driver import SubjectDied
from clonal.bench.floor import Unavailable
from clonal.cli.bench import progress_line
from clonal.kernel.machine import busy, machine, sentence

RESULTS = Path(__file__).resolve().parent / "results"


def main(argv: Sequence[str]) -> int:
    options = arguments(argv)
    warnings = [warning] if (warning := busy()) else []
    figures: dict[str, Figure] = {}
    with progress_line() as progress:
        stand = Stand(options.rounds, progress)
        try:
            for keys, group in GROUPS.items():
                if options.only is None or set(keys.split()) & set(options.only):
                    figures |= {figure.target.key: figure for figure in measured(keys, group, stand, options)}
        finally:
            stand.close()
    ordered = [figures[key] for key in TARGETS if key in figures]
    warnings += unstable(ordered, options.rounds)
    results = {
        "machine": machine(),
        "when": time.strftime("%Y-%m-%d"),
        "rounds": options.rounds,
        "warnings": warnings,
        "figures": [figure.to_json() for figure in ordered],
    }
    text = markdown(ordered, results)
    print(text)
    if options.only is None:
        store(results, text)
    return 0


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the figures that Clonal is to reach.")
    parser.add_argument("--only", type=lambda text: text.split(","), help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--python311", type=Path, help="a CPython 3.11 with the package installed")
    return parser.parse_args(argv)


def measured(keys: str, group: Any, stand: Stand, options: argparse.Namespace) -> Iterator[Figure]:
    """The figures of one group; those that it could not measure say why."""
    left = keys.split()
    try:
        for key, value, detail in group(stand, options):
            left.remove(key)
            yield Figure(TARGETS[key], value, "", detail)
    except (Unavailable, SubjectDied) as reason:
        for key in left:
            yield Figure(TARGETS[key], None, str(reason))


def unstable(figures: Sequence[Figure], rounds: int) -> list[str]:
    shaky = [figure.target.key for figure in figures if figure.unstable]
    if not shaky:
        return []
    keys = ",".join(shaky)
    return [
        f"unstable: stop other work on this machine and run again with --only {keys} --rounds {rounds * 2}"
    ]


def markdown(figures: Sequence[Figure], results: dict[str, Any]) -> str:
    lines = ["| what | measured | at least | aim | |", "| --- | --- | --- | --- | --- |"]
    for figure in figures:
        target = figure.target
        value = "–" if figure.value is None else f"{number(figure.value)} {target.unit}"
        bounds = f"{target.bound(target.at_least)} | {target.bound(target.aim)}"
        verdict = figure.verdict + "".join(f"; {text}" for text in (figure.why, figure.note) if text)
        lines.append(f"| {target.what} | {value} | {bounds} | {verdict} |")
    lines += [
        "",
        f"{sentence(results['machine'])}, {results['when']}, medians of {results['rounds']} rounds.",
    ]
    lines += [f"\nWarning: {warning}" for warning in results["warnings"]]
    return "\n".join(lines)


def store(results: dict[str, Any], text: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "figures.json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    (RESULTS / "figures.md").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
