"""A subject: a fresh process with one heap and one strategy, driven by JSON lines.

    python -c 'from clonal.bench.subject import main; main()' '{"strategy": "fork", ...}'

It never runs inside the driver, because a freeze cannot be undone. Commands come on standard input,
answers go to what standard output was at the start; what libraries print goes to standard error.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from clonal.bench import memory
from clonal.bench.clock import Clock, now, spans
from clonal.bench.heap import HEAP, resident, warm
from clonal.bench.launchers import ExecLauncher, ForkLauncher, Launcher
from clonal.bench.strategies import HUGE_OFF, STRATEGIES

WINDOW = 8  # children alive at once in a burst


def make_launcher(spec: dict[str, Any]) -> Launcher:
    strategy = STRATEGIES[spec["strategy"]]
    clock = Clock(spec["page"])
    if strategy.launcher in ("fork", "thp", "eager", "image"):
        return ForkLauncher(strategy, clock, spec["folder"], spec)
    if not strategy.inherits:
        return ExecLauncher(strategy, clock, spec["folder"], spec)
    library: Any = importlib.import_module("clonal.bench.launchers_library")
    kind = {
        "spawn": "MultiprocessingLauncher",
        "forkserver": "MultiprocessingLauncher",
        "clone": "CloneLauncher",
        "thread": "ThreadLauncher",
        "task": "TaskLauncher",
    }[strategy.launcher]
    return getattr(library, kind)(strategy, clock, spec["folder"], spec)  # type: ignore[no-any-return]


class Subject:
    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.strategy = STRATEGIES[spec["strategy"]]
        self.launcher = make_launcher(spec)
        self.kept: list[Any] = []

    def build(self) -> float:
        """Builds the heap where this strategy has it; returns the seconds that took."""
        if self.strategy.thp == HUGE_OFF:
            memory.disable_huge_pages()
        sys.path[:0] = self.spec.get("path", ())
        self.kept += [importlib.import_module(name) for name in self.spec.get("imports", ())]
        started = now()
        if self.strategy.launcher not in ("spawn", "forkserver", "clone"):
            warm(self.spec["size"], self.spec["objects"])
            self._set_up()
            self.kept += memory.add_mappings(self.spec.get("mappings", 0))
            gc.collect()
            gc.freeze()  # the best practice before any fork: collections in children copy no gc header
        return (now() - started) / 1e9

    def _set_up(self) -> None:
        """Calls the module:function that builds the heap of someone's own program."""
        if setup := self.spec.get("setup"):
            module, _, function = setup.partition(":")
            getattr(importlib.import_module(module), function)()

    def ready(self) -> dict[str, Any]:
        """Lets the launcher freeze or start its servers."""
        started, used = now(), time.process_time()
        report = self.launcher.prepare()
        return {
            **self.facts(),
            "prepare_seconds": (now() - started) / 1e9,
            "prepare_cpu_seconds": time.process_time() - used,
            **report,
        }

    def facts(self) -> dict[str, Any]:
        return {
            "resident": resident(),
            "mappings": memory.mapping_count(os.getpid()),
            "records": len(HEAP.records),
            "buffers": HEAP.size,
        }

    def measure(self, work: str, count: int = 1, gate: bool = False) -> list[dict[str, int]]:
        """`count` children, one after the other; the spans of each in nanoseconds."""
        samples = []
        for _ in range(count):
            self.launcher.clock.clear()
            counted = self.launcher.once(work, self.launcher.folder if gate else None)
            samples.append(spans(self.launcher.clock.read()) | counted)
        return samples

    def forks(self, count: int) -> list[int]:
        """Forks of this process whose children end at once: the time of each call in nanoseconds."""
        from clonal.bench.generation import time_fork

        return [time_fork() for _ in range(count)]

    def roundtrips(self, count: int) -> list[int]:
        return [self.launcher.roundtrip() for _ in range(count)]

    def template_forks(self, count: int) -> list[int]:
        return [self.launcher.template_fork() for _ in range(count)]

    def burst(self, seconds: float) -> float:
        """Children per second, eight at a time, each of which does nothing."""
        alive: list[Any] = []
        made, start = 0, now()
        while now() - start < seconds * 1e9:
            alive.append(self.launcher.start())
            made += 1
            if len(alive) >= WINDOW:
                self.launcher.finish(alive.pop(0))
        for child in alive:
            self.launcher.finish(child)
        return made / ((now() - start) / 1e9)

    def storm(self, **options: Any) -> dict[str, int]:
        from clonal.bench.storm import storm

        return storm(self.spec, self.strategy, **options)

    def generation(self, **options: Any) -> list[int]:
        from clonal.bench.generation import generation

        return generation(**options)

    def commands(self) -> dict[str, Callable[..., Any]]:
        return {
            "build": self.build,
            "ready": self.ready,
            "facts": self.facts,
            "measure": self.measure,
            "forks": self.forks,
            "roundtrips": self.roundtrips,
            "template_forks": self.template_forks,
            "burst": self.burst,
            "storm": self.storm,
            "generation": self.generation,
        }


def serve(subject: Subject, answers: int) -> None:
    commands = subject.commands()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = {"value": commands[request.pop("do")](**request)}
        except Exception as error:  # whatever it was, the driver has to hear of it
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        os.write(answers, json.dumps(reply).encode() + b"\n")
    subject.launcher.close()


def main() -> None:
    answers = os.dup(1)
    os.dup2(2, 1)
    serve(Subject(json.loads(sys.argv[1])), answers)
