"""The two machines as a story sees them: they take the lines of a step, then show a picture and counters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clonal.explain.picture import Marks, Painter, Picture
from clonal.explain.topic import Tell
from clonal.model import Faults, Process, Prot, oom
from clonal.model.numa import Mode
from clonal.scenario import KernelRunner, ModelRunner, Observation, Runner, Shown, Step
from clonal.scenario.runner import PAGE


@dataclass(frozen=True)
class Use:
    """What a process has, by its own account: pages resident, bytes of page tables."""

    rss: int
    page_tables: int


@dataclass(frozen=True)
class Side:
    """What one machine showed after a step: counters by name, in the order in which to show them."""

    picture: Picture
    counters: dict[str, int | str]
    uses: dict[str, Use]


class Machine:
    """What both have in common."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        runner.reset()
        self._painter = Painter()
        self._seen = runner.look()
        self._minor = 0
        self._failures: list[str] = []

    def begin(self) -> None:
        """A step of the story begins."""
        self._minor = 0
        self._failures = []

    def take(self, step: Step) -> Observation:
        """Takes one line."""
        self._seen = self._runner.run(step)
        self._painter.follow(self._seen)
        outcome = self._seen.outcome
        self._minor += outcome.minor or 0
        if outcome.result != "ok":
            touches = step.op in ("read", "write") and outcome.result == "ENOMEM"
            self._failures.append("out of frames" if touches else outcome.result)
        return self._seen

    def _lent(self) -> dict[str, str]:
        """Which processes run in another's address space, and whose."""
        owners: dict[int, str] = {}
        lent = {}
        for who, regions in self._runner.regions.items():
            owner = owners.setdefault(id(regions), who)
            if owner != who:
                lent[who] = owner
        return lent

    def _side(self, picture: Picture, work: Mapping[str, int | None]) -> Side:
        views, lent = self._seen.processes, self._lent()
        own = {who: view for who, view in views.items() if who not in lent}
        counters: dict[str, int | str] = {"result": ", ".join(self._failures)} if self._failures else {}
        counters["minor faults"] = self._minor
        counters |= {name: count for name, count in work.items() if count is not None}
        counters["charged pages"] = sum(view.charged for view in own.values())
        uses = {who: Use(sum(view.rss), view.page_tables) for who, view in own.items()}
        return Side(picture, counters, uses)


class Model(Machine):
    """The page-exact model."""

    def __init__(self, runner: ModelRunner, points: bool) -> None:
        super().__init__(runner)
        self.runner, self.points = runner, points
        self._homes: dict[str, int] = {}  # nodes that processes are still to be moved to
        self._policies: dict[str, Mode] = {}
        self.begin()

    def begin(self) -> None:
        super().begin()
        self._faults = self.runner.faults
        self._entries: int | None = None

    def place(self, told: Tell) -> None:
        """Where processes run and what policy they have from now on, or from their birth."""
        self._homes.update(told.nodes)
        self._policies.update({who: Mode[name.upper()] for who, name in told.policies.items()})
        self._settle()

    def _settle(self) -> None:
        config = self.runner.machine.config
        for who in self._homes.keys() & self.runner.regions.keys():
            self.runner.process(who).cpu = self._homes.pop(who) * config.cpus_per_node
        for who in self._policies.keys() & self.runner.regions.keys():
            self.runner.process(who).set_mempolicy(self._policies.pop(who), tuple(range(config.nodes)))

    def take(self, step: Step) -> Observation:
        seen = super().take(step)
        self._settle()
        if step.op == "fork" and seen.outcome.result == "ok":
            self._entries = (self._entries or 0) + self.runner.process(step.process).fork_work.entries
        return seen

    def side(self) -> Side:
        self._seen = self.runner.look()
        picture = self._painter.paint(self._seen, self._marks(), self._lent(), self._nodes())
        made = Faults(*(now - then for now, then in zip(self.runner.faults, self._faults, strict=True)))
        work = {
            "copied": made.copied or None,
            "reused": made.reused or None,
            "zero-filled": made.zeroed or None,
            "mapped from files": made.mapped or None,
            "entries copied by fork": self._entries,
        }
        return self._side(picture, work | (self._points() if self.points else {}))

    def _nodes(self) -> dict[int, int]:
        """The node of each frame, of a machine that has several."""
        if self.runner.machine.config.nodes == 1:
            return {}
        views = [region for view in self._seen.processes.values() for region in view.regions.values()]
        frames = np.concatenate([view.frame[view.kind == Shown.ANON] for view in views])
        nodes = self.runner.machine.frames.banks.node_of(frames)
        return dict(zip(frames.tolist(), nodes.tolist(), strict=True))

    def _points(self) -> dict[str, int | None]:
        return {f"points of {who}": oom.points_of(self.runner.process(who)) for who in self.runner.regions}

    def _marks(self) -> Marks:
        return {
            (who, name): _marks(self.runner.process(who), region.address, region.pages)
            for who, regions in self.runner.regions.items()
            for name, region in regions.items()
        }


def _marks(process: Process, address: int, pages: int) -> NDArray[np.str_]:
    """What a write to each page would meet."""
    marks = np.full(pages, "", "U1")
    first = address // PAGE
    for vma in process.space.between(first, first + pages):
        at = slice(max(vma.start - first, 0), min(vma.end - first, pages))
        marks[at] = "c" if vma.prot & Prot.WRITE and not vma.shared else "r"
    marks[process.pages(address, pages * PAGE).writable] = "w"
    return marks


class Kernel(Machine):
    """The running kernel: it shows no write permissions, nor what a fault did."""

    def __init__(self, runner: KernelRunner) -> None:
        super().__init__(runner)
        self.runner = runner

    def side(self) -> Side:
        return self._side(self._painter.paint(self._seen, None, self._lent()), {})
