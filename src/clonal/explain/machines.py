"""The two machines as a story sees them: they take the lines of a step, then show a picture and counters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clonal.explain.picture import Marks, Painter, Picture
from clonal.explain.topic import Tell
from clonal.kernel import cgroup
from clonal.model import Faults, Process, Prot, oom, pressure
from clonal.model.numa import Mode
from clonal.scenario import KernelRunner, ModelRunner, Observation, Pages, PuppetLost, Runner, Shown, Step
from clonal.scenario.runner import PAGE

FEW = 8  # pages that are written at once where memory runs out
PATIENCE = 10.0  # seconds that one who was killed may take to go


@dataclass(frozen=True)
class Use:
    """What a process has, by its own account: pages resident, bytes of page tables."""

    rss: int
    page_tables: int


class Kill(NamedTuple):
    """Whom the OOM killer took, how many pages had been written until then, and what is left."""

    killed: tuple[str, ...]
    written: int
    seen: Observation


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
        self._minor: int | None = 0
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
        self._minor = (self._minor or 0) + (outcome.minor or 0)
        if outcome.result != "ok":
            touches = step.op in ("read", "write") and outcome.result == "ENOMEM"
            self._failures.append("out of frames" if touches else outcome.result)
        return self._seen

    def _pressed(self, killed: list[str], written: int) -> Kill:
        """After a write in a group that is full. What its faults did is known of the model alone."""
        self._seen = self._runner.look()
        self._painter.follow(self._seen)
        self._minor = None
        self._failures.append(f"{' and '.join(killed) or 'nobody'} killed")
        return Kill(tuple(killed), written, self._seen)

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
        counts = {"minor faults": self._minor, **work}
        counters |= {name: count for name, count in counts.items() if count is not None}
        counters["private pages committed"] = sum(view.charged for view in own.values())
        uses = {who: Use(sum(view.rss), view.page_tables) for who, view in own.items()}
        return Side(picture, counters, uses)


class Model(Machine):
    """The page-exact model."""

    def __init__(self, runner: ModelRunner, limit: int) -> None:
        super().__init__(runner)
        self.runner = runner
        self._group = runner.machine.group("small", limit) if limit else None
        self._homes: dict[str, int] = {}  # nodes that processes are still to be moved to
        self._policies: dict[str, Mode] = {}
        self.begin()

    def begin(self) -> None:
        super().begin()
        self._faults = self.runner.faults
        self._entries: int | None = None  # that fork copied
        self._huge = 0  # entries of the middle level among them

    def prepare(self, told: Tell) -> None:
        """How the machine is set, where processes run and what policy they have from now on, or from their
        birth."""
        machine = self.runner.machine
        machine.config = replace(machine.config, **told.settings)
        self._homes.update(told.nodes)
        self._policies.update({who: Mode[name.upper()] for who, name in told.policies.items()})
        self._settle()

    def _settle(self) -> None:
        config = self.runner.machine.config
        if self._group is not None:
            for who in self.runner.regions:
                self.runner.process(who).group = self._group
        for who in self._homes.keys() & self.runner.regions.keys():
            self.runner.process(who).cpu = self._homes.pop(who) * config.cpus_per_node
        for who in self._policies.keys() & self.runner.regions.keys():
            self.runner.process(who).set_mempolicy(self._policies.pop(who), tuple(range(config.nodes)))

    def take(self, step: Step) -> Observation:
        seen = super().take(step)
        self._settle()
        if step.op == "fork" and seen.outcome.result == "ok":
            work = self.runner.process(step.process).fork_work
            self._entries, self._huge = (self._entries or 0) + work.entries, self._huge + work.huge
        return seen

    def press(self, step: Step) -> Kill:
        """Writes until the OOM killer takes somebody for it."""
        name, pages = step.args
        numbers = pages.numbers + self.runner.regions[step.process][name].address // PAGE
        pressed = pressure.touch(self.runner.process(step.process), numbers)
        return self._pressed(self.runner.bury_the_killed(), pressed.touched)

    def side(self) -> Side:
        self._seen = self.runner.look()
        picture = self._painter.paint(self._seen, self._marks(), self._lent(), self._nodes())
        made = Faults(*(now - then for now, then in zip(self.runner.faults, self._faults, strict=True)))
        work = {
            "copied": made.copied or None,
            "reused": made.reused or None,
            "zero-filled": made.zeroed or None,
            "mapped from the cache": made.mapped or None,
            "entries copied by fork": self._entries or (None if self._huge else self._entries),
            "huge entries copied by fork": self._huge or None,
        }
        return self._side(picture, work | (self._points() if self._group is not None else {}))

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

    def __init__(self, runner: KernelRunner, group: cgroup.Group | None) -> None:
        super().__init__(runner)
        self.runner, self._group = runner, group

    def take(self, step: Step) -> Observation:
        seen = super().take(step)
        if step.op == "map" and self._group is not None:  # its children are born in the group
            cgroup.enter(self._group, self.runner.pid(step.process))
        return seen

    def press(self, step: Step) -> Kill:
        """Writes a few pages at a time until the OOM killer takes somebody for it."""
        name, pages = step.args
        kills = self._kills()
        written = 0
        for first in range(0, len(pages), FEW):
            part = Pages.of(pages.numbers[first : first + FEW].tolist())
            try:
                self.runner.run(Step(step.process, "write", (name, part)))
            except PuppetLost:
                if self._kills() == kills:
                    raise
            if self._kills() != kills:
                return self._pressed(self.runner.bury_the_killed(PATIENCE), written)
            written += len(part)
        return self._pressed([], written)

    def _kills(self) -> int:
        return (self._group.oom_kills() or 0) if self._group is not None else 0

    def side(self) -> Side:
        return self._side(self._painter.paint(self._seen, None, self._lent()), {})
