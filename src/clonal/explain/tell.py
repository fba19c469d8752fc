"""Plays a topic on the model and on the running kernel, and keeps what both showed after each step."""

from __future__ import annotations

import platform
from collections import Counter
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

from clonal.explain.acts import ACTS
from clonal.explain.machines import Kernel, Model, Side
from clonal.explain.probes import PROBES
from clonal.explain.topic import Tell, Topic
from clonal.model import Config
from clonal.scenario import KernelRunner, ModelRunner, NotModelled, Observation, PuppetLost, Step, parse
from clonal.scenario.compare import Comparison

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


def tell(topic: Topic, kernel: KernelRunner | None, without_kernel: str = "") -> Story:
    """Plays it; without `kernel` on the model alone, for the reason given. What the two show differently is
    played again before it counts. A kernel that cannot play it takes no part."""
    try:
        for _ in range(PLAYS if kernel is not None else 1):
            story = _Telling(topic, kernel, without_kernel).story()
            if not any(moment.differences for moment in story.moments):
                break
    except (OSError, PuppetLost) as error:
        if kernel is None:
            raise
        return _Telling(topic, None, str(error)).story()
    return story


class _Telling:
    """One play of a topic."""

    def __init__(self, topic: Topic, kernel: KernelRunner | None, without_kernel: str) -> None:
        self._topic, self._runner, self._without_kernel = topic, kernel, without_kernel
        self._model: Model | None = Model(ModelRunner(Config(**topic.config)), topic.points)
        self._kernel = Kernel(kernel) if kernel is not None else None
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
        notes, differences = self._prepare(told), []
        for machine in (self._model, self._kernel):
            if machine is not None:
                machine.begin()
        for step in islice(self._steps, told.count):
            differences += self._take(step)
        if told.probe and self._runner is not None:
            notes.append(PROBES[told.probe](self._runner))
        model = self._model.side() if self._model is not None else None
        kernel = self._kernel.side() if self._kernel is not None else None
        return Moment(told, model, kernel, tuple(differences), tuple(notes))

    def _prepare(self, told: Tell) -> list[str]:
        notes = []
        if told.apart and self._kernel is not None:
            notes.append(f"from here on the model alone: {told.apart}")
            self._kernel = None
        if self._model is not None:
            self._model.place(told)
            if told.act:
                notes.append(ACTS[told.act](self._model.runner))
        return notes

    def _take(self, step: Step) -> list[str]:
        """One line on both; how they differ."""
        self._number += 1
        model = self._take_in_model(step)
        kernel = self._kernel.take(step) if self._kernel is not None else None
        if model is None or kernel is None:
            return []
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
