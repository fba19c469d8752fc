"""Plays a topic on the model and on the running kernel, and keeps what both showed after each step."""

from __future__ import annotations

import platform
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

from clonal.explain.machines import Kernel, Model, Side
from clonal.explain.picture import UNKNOWN
from clonal.explain.probes import PROBES
from clonal.explain.topic import Tell, Topic
from clonal.kernel import cgroup
from clonal.model import PAGE, Config
from clonal.scenario import KernelRunner, ModelRunner, NotModelled, Observation, PuppetLost, Step, parse
from clonal.scenario.compare import Comparison

# mm/memcontrol.c MEMCG_CHARGE_BATCH; the group pays for stacks and records of its processes, too
BATCHES = ", which charges each CPU's pages in batches of 64, and its own records"
OLDEST = (6, 12)  # whose rules the model has
PLAYS = 3  # a difference that does not repeat was not the scenario's: the kernel may move pages at any moment


@dataclass(frozen=True)
class Moment:
    """A step with what both machines showed after it; `differences` between them; `notes` besides."""

    tell: Tell
    model: Side | None
    kernel: Side | None
    differences: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        return self.tell.lines.splitlines()

    @property
    def side(self) -> Side | None:
        """What is drawn: the model's, where there is one."""
        return self.model or self.kernel


@dataclass(frozen=True)
class Story:
    """A topic played. `without_kernel` and `without_model` say why one of them took no part; "" if it did."""

    topic: Topic
    moments: tuple[Moment, ...]
    kernel_name: str
    without_kernel: str = ""
    without_model: str = ""

    @property
    def frames_hidden(self) -> bool:
        """Whether the kernel kept the numbers of frames to itself."""
        pictures = [moment.kernel.picture for moment in self.moments if moment.kernel is not None]
        cells = [cell for picture in pictures for row in picture.rows for cell in row.cells]
        return any(cell.kind in ("anon", "file") and cell.frame == UNKNOWN for cell in cells)

    def to_json(self) -> dict[str, Any]:
        return {
            "topic": self.topic.name,
            "title": self.topic.title,
            "lesson": self.topic.lesson,
            "kernel": self.kernel_name,
            "without_kernel": self.without_kernel,
            "without_model": self.without_model,
            "steps": [_json(moment) for moment in self.moments],
        }


def _json(moment: Moment) -> dict[str, Any]:
    return {
        "step": moment.lines,
        "functions": moment.tell.where,
        "why": moment.tell.why,
        "model": asdict(moment.model) if moment.model else None,
        "kernel": asdict(moment.kernel) if moment.kernel else None,
        "differences": list(moment.differences),
        "notes": list(moment.notes),
    }


def kernel_name() -> str:
    """`Linux 6.18.44`."""
    return f"{platform.system()} {platform.release().split('-')[0]}"


def kernel_version() -> tuple[int, int]:
    """(6, 18)."""
    major, minor, *_ = re.split(r"\D+", platform.release())
    return int(major), int(minor)


def tell(topic: Topic, kernel: KernelRunner | None, without_kernel: str = "") -> Story:
    """Plays it; without `kernel` on the model alone, for the reason given. What the two show differently is
    played again before it counts. A kernel that cannot play it takes no part."""
    if kernel is not None and (lacking := topic.lacking()):
        kernel, without_kernel = None, lacking
    try:
        for _ in range(PLAYS if kernel is not None else 1):
            with _room(topic, kernel) as room:
                story = _Telling(topic, kernel, without_kernel, room).story()
            if not any(moment.differences for moment in story.moments):
                break
    except (OSError, PuppetLost) as error:
        if kernel is None:
            raise
        return _Telling(topic, None, str(error)).story()
    return story


@dataclass(frozen=True)
class _Room:
    """The memory cgroup of a topic that has one, or why there is none."""

    group: cgroup.Group | None = None
    lacking: str = ""


@contextmanager
def _room(topic: Topic, kernel: KernelRunner | None) -> Iterator[_Room]:
    with ExitStack() as stack:
        room = _Room()
        if topic.group and kernel is not None:
            try:
                groups = stack.enter_context(cgroup.small_group(memory=topic.group * PAGE))
                room = _Room(groups[0])
            except (OSError, NotImplementedError) as error:
                room = _Room(lacking=getattr(error, "strerror", None) or str(error))
        yield room


class _Telling:
    """One play of a topic."""

    def __init__(
        self, topic: Topic, kernel: KernelRunner | None, without_kernel: str, room: _Room | None = None
    ) -> None:
        self._topic, self._runner, self._without_kernel = topic, kernel, without_kernel
        self._room = room or _Room()
        rules: dict[str, Any] = {"kernel": max(kernel_version(), OLDEST)} if kernel is not None else {}
        self._model: Model | None = Model(ModelRunner(Config(**rules, **topic.config)), topic.group)
        self._kernel = Kernel(kernel, self._room.group) if kernel is not None else None
        self._without_model = ""
        self._steps = iter(parse(topic.text))
        self._number = 0
        self._before: tuple[Observation, Observation] | None = None

    def story(self) -> Story:
        moments = [self._moment(each) for each in self._topic.steps]
        if self._runner is not None:
            self._runner.reset()
        if self._model is None:  # a story is not told half on one machine, half on the other
            moments = [replace(moment, model=None, differences=()) for moment in moments]
        return Story(self._topic, tuple(moments), kernel_name(), self._without_kernel, self._without_model)

    def _moment(self, told: Tell) -> Moment:
        notes = self._prepare(told)
        differences: list[str] = []
        for machine in (self._model, self._kernel):
            if machine is not None:
                machine.begin()
        for step in islice(self._steps, told.count):
            self._number += 1
            if told.press:
                differences += self._press(step, notes)
            else:
                differences += self._take(step)
        if told.probe and self._runner is not None:
            notes.append(PROBES[told.probe](self._runner))
        model = self._model.side() if self._model is not None else None
        kernel = self._kernel.side() if self._kernel is not None else None
        return Moment(told, model, kernel, tuple(differences), tuple(notes))

    def _prepare(self, told: Tell) -> list[str]:
        notes = []
        apart = told.apart
        if told.press and self._room.group is None:
            apart = f"memory is run out only in a memory cgroup, and none can be made ({self._room.lacking})"
        if apart and self._kernel is not None:
            notes.append(f"from here on the model alone: {apart}")
            self._kernel = None
        if self._model is not None:
            self._model.prepare(told)
        return notes

    def _press(self, step: Step, notes: list[str]) -> list[str]:
        """A write that does not fit, on both: notes whom it killed, and when; how they differ."""
        machines = [each for each in (self._model, self._kernel) if each is not None]
        kills = [machine.press(step) for machine in machines]
        written = [f"{kill.written:,}" for kill in kills]
        notes.append(
            f"written until the kill: {written[0]} pages by the model"
            + (f", {written[1]} on this kernel{BATCHES}" if self._kernel is not None else "")
        )
        return self._compare(step, *(kill.seen for kill in kills)) if len(kills) > 1 else []

    def _take(self, step: Step) -> list[str]:
        """One line on both; how they differ."""
        model = self._take_in_model(step)
        kernel = self._kernel.take(step) if self._kernel is not None else None
        return self._compare(step, model, kernel) if model is not None and kernel is not None else []

    def _compare(self, step: Step, model: Observation, kernel: Observation) -> list[str]:
        found = Comparison(self._number, step, model, kernel, Counter()).differences(self._before)
        self._before = model, kernel
        return [str(each) for each in found if "Committed_AS" not in each.what]

    def _take_in_model(self, step: Step) -> Observation | None:
        if self._model is not None:
            try:
                return self._model.take(step)
            except NotModelled as error:
                self._without_model, self._model = f"it does not have {error.what}", None
        return None
