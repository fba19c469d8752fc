"""How well `clonal plan` predicts: real forks of heaps and of an application that it was not calibrated on.

    python benchmarks/plan_accuracy.py [--rounds N] [--store]

Calibrates this machine first, in the same run (the user's stored costs stay as they are). Prints predicted ÷
measured for each figure, the median and the worst error of times and of private memory; --store writes
results/plan_accuracy.md. Exits 1 if the worst is beyond what is promised.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from service import EXAMPLE, phrases
from stand import MB, Stand

from clonal.bench.driver import Subject
from clonal.bench.floor import Unavailable
from clonal.kernel.machine import busy, machine, sentence
from clonal.model import PAGE
from clonal.plan.calibrate import calibrate
from clonal.plan.costs import Costs
from clonal.plan.question import Fleet, Host
from clonal.plan.server import measure
from clonal.plan.storm import storm
from clonal.plan.ways import way
from clonal.report.words import duration, size

RESULTS = Path(__file__).resolve().parent / "results" / "plan_accuracy.md"
SIZES = (150 * MB, 420 * MB, 900 * MB)  # the calibration has 128 MiB and 2 GiB
SHARES = (0.05, 0.25)
KINDS = {"fork": "cow", "fork-thp": "cow", "image-immortal": "image"}  # of clonal bench: strategy of the plan
CHILDREN = 6
REQUESTS = 24  # of the application
GATE = "clonal.bench.gate"  # loaded before the fork: a child that loads a module writes pages for it
PROMISED = {"time": (0.25, 0.60), "memory": (0.03, 0.03)}  # median and worst


class Figure(NamedTuple):
    """Nanoseconds or bytes."""

    case: str
    what: str
    unit: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """How far the prediction is off, as a share of what was measured."""
        return abs(self.predicted / self.measured - 1)

    def row(self) -> str:
        words = duration if self.unit == "time" else size
        ratio = self.predicted / self.measured
        return (
            f"| {self.case} | {self.what} | {words(self.predicted)} | {words(self.measured)} | {ratio:.2f} |"
        )


def of_sizes(stand: Stand, costs: Costs) -> Iterator[Figure]:
    """Heaps of raw buffers, of which a child writes a known share."""
    for kind, strategy in KINDS.items():
        for heap in SIZES:
            case = f"{kind}, {heap // MB} MiB"
            try:
                with stand.subjects({kind: stand.spec(kind, heap, 0.0, imports=[GATE])}) as subjects:
                    yield from of_heap(case, strategy, subjects[kind], stand.rounds, costs)
            except Unavailable as error:
                print(f"skipped: {case}: {error}", file=sys.stderr)


def of_heap(case: str, strategy: str, subject: Subject, rounds: int, costs: Costs) -> Iterator[Figure]:
    server = measure(subject.pid)
    for share in SHARES:
        pages = round(subject.facts["buffers"] // PAGE * share)
        planned = way(strategy, server, Fleet(1, written=pages / server.heap_pages, read=0.0), costs)
        named = f"{case}, writes {share:.0%}"
        times = subject.ask("measure", work=f"write:{share}", count=rounds + 1)[1:]
        if share == SHARES[0]:
            yield Figure(case, "fork", "time", planned.stall, usual(times, "stall"))
        yield Figure(named, "touches", "time", planned.touch, usual(times, "work"))
        yield Figure(named, "exit", "time", planned.end, usual(times, "teardown"))
        held = statistics.median(subject.private(f"write:{share}")["private"] for _ in range(3))
        yield Figure(named, "private memory", "memory", planned.private, held)


def of_storm(stand: Stand, costs: Costs, host: Host) -> Iterator[Figure]:
    """Children that write the same pages at once."""
    heap = 48 * MB
    with stand.subjects({"fork": stand.spec("fork", heap, 0.0)}) as subjects:
        server = measure(subjects["fork"].pid)
        written = subjects["fork"].facts["buffers"] / PAGE / server.heap_pages
        fleet = Fleet(CHILDREN, written=written, read=0.0, same=True)
        planned = way("cow", server, fleet, costs)
        options = {"mitigation": "none", "children": CHILDREN, "size": heap}
        slowest = [subjects["fork"].ask("storm", **options)["slowest"] for _ in range(stand.rounds)]
        predicted = storm(planned, fleet, host, costs).seconds * 1e9
        case = f"fork, {heap // MB} MiB, {CHILDREN} children at once"
        yield Figure(case, "storm", "time", predicted, statistics.quantiles(slowest, n=4)[0])


def of_application(stand: Stand, costs: Costs) -> Iterator[Figure]:
    """The example's requests, each in a child. What they write is measured once; then another process,
    freshly started, is planned for, and measured."""
    asked = phrases(REQUESTS)
    works = [f"call:app:handle:{phrase}" for phrase in asked]
    common: dict[str, Any] = {
        "path": [str(EXAMPLE)], "setup": "app:prepare", "imports": ["app", GATE], "objects": 0.0
    }  # fmt: skip
    for kind, strategy in {"fork": "cow", "image-immortal": "image"}.items():
        spec = {kind: stand.spec(kind, 0) | common}
        with stand.subjects(spec) as subjects:
            written = statistics.mean(held(subjects[kind], works)) / PAGE
        with stand.subjects(spec) as subjects:
            yield from of_requests(f"example, {kind}", strategy, subjects[kind], works, written, costs)


def held(subject: Subject, works: list[str]) -> list[int]:
    """Private bytes of a child for each work; the first child is not like the rest."""
    subject.ask("measure", work=works[0])
    return [subject.private(work)["private"] for work in works]


def of_requests(
    case: str, strategy: str, subject: Subject, works: list[str], written: float, costs: Costs
) -> Iterator[Figure]:
    server = measure(subject.pid)
    own = costs.python_pages_image if strategy == "image" else costs.python_pages
    fleet = Fleet(1, written=max(0.0, written - own) / server.heap_pages, read=0.0)
    planned = way(strategy, server, fleet, costs)
    found = held(subject, works)
    times = [subject.ask("measure", work=work)[0] for work in works]
    yield Figure(case, "fork", "time", planned.stall, usual(times, "stall"))
    yield Figure(case, "exit", "time", planned.end, usual(times, "teardown"))
    yield Figure(case, "private memory of all", "memory", planned.private * len(found), sum(found))


def usual(times: list[dict[str, int]], what: str) -> float:
    """The first quartile, as in the calibration: other work on the machine only ever adds."""
    return statistics.quantiles([each[what] for each in times], n=4)[0]


def verdict(figures: list[Figure]) -> tuple[list[str], bool]:
    """Median and worst error by unit, in words, and whether they are as promised."""
    lines, good = [], True
    for unit, (median, worst) in PROMISED.items():
        errors = [figure.error for figure in figures if figure.unit == unit]
        found = statistics.median(errors), max(errors)
        good = good and found[0] <= median and found[1] <= worst
        lines.append(
            f"{unit}: {len(errors)} figures, median error {found[0]:.1%} (promised {median:.0%}), "
            f"worst {found[1]:.1%} (promised {worst:.0%})"
        )
    return lines, good


def main() -> int:
    """Measures, prints, stores."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--store", action="store_true", help=f"write {RESULTS.name}")
    arguments = parser.parse_args()
    noisy = busy()
    facts = machine()
    costs = calibrate(lambda what: print(f"\r\033[K{what}", end="", file=sys.stderr))
    stand = Stand(arguments.rounds, lambda what: print(f"\r\033[K{what}", end="", file=sys.stderr))
    host = Host(ram=int(facts["memory"] or 0), cores=int(facts["cores"] or 1))
    try:
        figures = [*of_sizes(stand, costs), *of_storm(stand, costs, host), *of_application(stand, costs)]
    finally:
        stand.close()
        print("\r\033[K", end="", file=sys.stderr)
    lines, good = verdict(figures)
    text = report(figures, lines, sentence(facts), noisy)
    print(text)
    if arguments.store:
        RESULTS.write_text(text + "\n", "utf-8")
    return 0 if good else 1


def report(figures: list[Figure], lines: list[str], where: str, noisy: str | None) -> str:
    head = [
        "# What `clonal plan` predicts and what was measured",
        "",
        f"{where}; calibrated in the same run.",
    ]
    head += [f"Warning: {noisy}"] if noisy else []
    table = ["| case | figure | predicted | measured | ratio |", "| --- | --- | --- | --- | --- |"]
    return "\n".join(
        [*head, "", *(f"- {line}" for line in lines), "", *table, *(each.row() for each in figures)]
    )


if __name__ == "__main__":
    sys.exit(main())
