"""Runs the storms of storm.py, each mitigation in turn, round by round."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack
from typing import TYPE_CHECKING

from clonal.bench.driver import Subject
from clonal.bench.results import Storm
from clonal.bench.statistics import Measure
from clonal.bench.storm import MITIGATIONS
from clonal.bench.strategies import STRATEGIES

if TYPE_CHECKING:
    from clonal.bench.run import Run

# pre-touching, sharing and vfork have nothing to do with how the heap is held
STORMS = {"fork": tuple(MITIGATIONS), "image-immortal": ("none", "populate", "standby")}
ROUNDS = 5


def measure_storms(run: Run, chosen: list[str]) -> None:
    settings = run.settings
    with ExitStack() as stack:
        for name, mitigations in STORMS.items():
            if name not in chosen:
                continue
            subject = run.start(stack, name, settings.storm_bytes, objects=0.0)
            if subject is not None:
                _measure(run, subject, name, mitigations)


def _measure(run: Run, subject: Subject, name: str, mitigations: tuple[str, ...]) -> None:
    settings = run.settings
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    usable = [mitigation for mitigation in mitigations if mitigation != "vfork" or run.floor]
    for number in range(min(ROUNDS, settings.rounds)):
        for mitigation in usable:
            run.progress(f"storm, round {number + 1}: {STRATEGIES[name].title}, {mitigation}")
            times = subject.ask(
                "storm",
                mitigation=mitigation,
                children=settings.storm_children,
                size=settings.storm_bytes,
            )
            for span, value in times.items():
                found[mitigation][span].append(value)
    for mitigation, spans in found.items():
        run.results.storms.append(
            Storm(
                mitigation,
                name,
                settings.storm_children,
                settings.storm_bytes,
                Measure.of(spans["slowest"]),
                Measure.of(spans["total"]),
            )
        )
