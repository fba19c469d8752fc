"""The same scenario on two machines, compared after every step, page by page of every process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clonal.scenario.errors import UnlikeMachines
from clonal.scenario.observation import Observation, ProcessView, RegionView, Shown
from clonal.scenario.pages import Pages
from clonal.scenario.runner import HUGE, Runner
from clonal.scenario.steps import Scenario, Step

# Committed_AS is the whole system's: what else runs on it maps and unmaps too, and a new puppet has
# some pages for itself. What a step adds may differ by this many pages (64 MiB), which tells on
# large mappings; the pages charged to each process are compared exactly.
COMMIT_TOLERANCE = 16384
_COMMITTED = "pages added to Committed_AS"

# A difference that a repetition does not show was not the scenario's: compaction and khugepaged may
# move pages at any moment. It counts when so many plays showed it, one of Committed_AS when all did, and
# when no play of all went without one.
PROOF = 3
MOST_PLAYS = 9

_SAME_FRAMES = ("read", "write", "fork", "wait", "mprotect", "mlock", "munlock")


@dataclass(frozen=True)
class Mismatch:
    """Where two machines differ after a step, counted from 1."""

    number: int
    step: Step
    where: str  # process, or process and region
    what: str
    model: Any
    kernel: Any

    @property
    def place(self) -> tuple[int, str, str]:
        return self.number, self.where, self.what

    @property
    def proof(self) -> int:
        """How many plays must show it."""
        return MOST_PLAYS if self.what == _COMMITTED else PROOF

    def __str__(self) -> str:
        return (
            f"step {self.number} ({self.step}): {self.where} {self.what}: "
            f"model {self.model}, kernel {self.kernel}"
        )


@dataclass
class Tally:
    """What was compared, by kind, how often; and each operation with its outcome. `replayed` counts
    scenarios that differed once and not again: something else moved pages on this machine."""

    compared: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    scenarios: int = 0
    replayed: int = 0

    def __str__(self) -> str:
        lines = [f"{self.scenarios} scenarios, {self.replayed} of them played again"]
        lines += [f"  {count:>9,} {what}" for what, count in sorted(self.compared.items())]
        lines += [f"  {count:>9,} {op}: {result}" for (op, result), count in sorted(self.outcomes.items())]
        return "\n".join(lines)


def compare(scenario: Scenario, model: Runner, kernel: Runner, tally: Tally | None = None) -> list[Mismatch]:
    """Where the machines differ, at the first step that they do; none only if one play of the scenario
    found none. Raises UnlikeMachines if they promise memory by different rules."""
    if model.overcommit != kernel.overcommit:
        raise UnlikeMachines("vm.overcommit_memory", model.overcommit, kernel.overcommit)
    tally = tally if tally is not None else Tally()
    tally.scenarios += 1
    seen: Counter[tuple[int, str, str]] = Counter()
    for play in range(MOST_PLAYS):
        found = _play(scenario, model, kernel, tally if play == 0 else Tally())
        tally.replayed += bool(found) and play == 0
        seen.update(each.place for each in found)
        if not found:
            return []
        if proven := [each for each in found if seen[each.place] >= each.proof]:
            return proven
    return found


def _play(scenario: Scenario, model: Runner, kernel: Runner, tally: Tally) -> list[Mismatch]:
    """What differs, up to the first step where something other than Committed_AS does."""
    found: list[Mismatch] = []
    before: tuple[Observation, Observation] | None = None
    pairs = zip(model.play(scenario), kernel.play(scenario), strict=True)
    for number, (step, now) in enumerate(zip(scenario, pairs, strict=True), 1):
        tally.outcomes[step.op, now[1].outcome.result] += 1
        found += Comparison(number, step, *now, tally.compared).differences(before)
        if any(each.what != _COMMITTED for each in found):
            break
        before = now
    return found


@dataclass
class Comparison:
    """Two observations of one step."""

    number: int
    step: Step
    model: Observation
    kernel: Observation
    tally: Counter[str]

    def differences(self, before: tuple[Observation, Observation] | None) -> Iterator[Mismatch]:
        yield from self._outcome()
        yield from self._equal(
            "all", "processes", sorted(self.model.processes), sorted(self.kernel.processes)
        )
        for who in self.model.processes.keys() & self.kernel.processes.keys():
            yield from self._process(who, self.model.processes[who], self.kernel.processes[who])
        yield from self._frames()
        yield from self._committed()
        if before:
            yield from self._moves(*before)

    def _differ(self, where: str, what: str, model: Any, kernel: Any) -> Mismatch:
        return Mismatch(self.number, self.step, where, what, model, kernel)

    def _equal(self, where: str, what: str, model: Any, kernel: Any) -> Iterator[Mismatch]:
        self.tally[what] += 1
        if model != kernel:
            yield self._differ(where, what, model, kernel)

    def _outcome(self) -> Iterator[Mismatch]:
        model, kernel = self.model.outcome, self.kernel.outcome
        yield from self._equal(self.step.process, "result", model.result, kernel.result)
        if model.minor is not None and kernel.minor is not None:
            yield from self._equal(self.step.process, "minor faults", model.minor, kernel.minor)

    def _process(self, who: str, model: ProcessView, kernel: ProcessView) -> Iterator[Mismatch]:
        yield from self._equal(who, "RSS", tuple(model.rss), tuple(kernel.rss))
        yield from self._equal(who, "VmPTE", model.page_tables, kernel.page_tables)
        yield from self._equal(who, "charged pages", model.charged, kernel.charged)
        yield from self._equal(who, "regions", sorted(model.regions), sorted(kernel.regions))
        for name in model.regions.keys() & kernel.regions.keys():
            sizes = len(model.regions[name].kind), len(kernel.regions[name].kind)
            yield from self._equal(f"{who} {name}", "pages", *sizes)
            if sizes[0] == sizes[1]:
                yield from self._region(f"{who} {name}", model.regions[name], kernel.regions[name])

    def _region(self, where: str, model: RegionView, kernel: RegionView) -> Iterator[Mismatch]:
        unsure = kernel.kind == Shown.ZERO_OR_ANON
        sure = ~unsure | ((model.kind != Shown.ZERO) & (model.kind != Shown.ANON))
        yield from self._pages(where, "kind", model.kind, kernel.kind, sure)
        present = kernel.kind != Shown.NONE
        # fs/proc/task_mmu.c pagemap_pmd_range tells of a huge page's first page for all, 6.18
        first = np.arange(len(present)) % HUGE == 0
        yield from self._pages(
            where, "mapped once", model.alone, kernel.alone, present & (first | ~kernel.huge)
        )
        yield from self._pages(where, "huge", model.huge, kernel.huge, present)

    def _pages(
        self, where: str, what: str, model: NDArray[Any], kernel: NDArray[Any], sure: NDArray[np.bool_]
    ) -> Iterator[Mismatch]:
        self.tally[f"pages: {what}"] += int(sure.sum())
        wrong = np.flatnonzero((model != kernel) & sure)
        if len(wrong):
            what = f"{what} of page {Pages.of(wrong.tolist())}"
            yield self._differ(where, what, model[wrong[0]].item(), kernel[wrong[0]].item())

    def _frames(self) -> Iterator[Mismatch]:
        """The same pages share a frame in both machines."""
        if not self.kernel.frames_shown:
            return
        places, model, kernel = _all_frames(self.model, self.kernel)
        self.tally["pages: frame"] += len(model)
        for what, one, other in (("shares a frame", model, kernel), ("has a frame alone", kernel, model)):
            if (wrong := _split(one, other)) is not None:
                pair = " and ".join(places(index) for index in wrong)
                sharing = "the same frame", "two frames"
                says = sharing if one is model else sharing[::-1]
                yield self._differ(pair, what, *says)

    def _committed(self) -> Iterator[Mismatch]:
        ours, theirs = self.model.committed, self.kernel.committed
        self.tally["Committed_AS"] += 1
        if abs(ours - theirs) > COMMIT_TOLERANCE:
            yield self._differ("all", _COMMITTED, ours, theirs)

    def _moves(self, model: Observation, kernel: Observation) -> Iterator[Mismatch]:
        """The same pages kept their frame over the step: reuse is told from copy by it."""
        if not self.kernel.frames_shown or self.step.op not in _SAME_FRAMES:
            return
        for who, name, *views in _common(model, self.model, kernel, self.kernel):
            was, now, real_was, real_now = views
            known = (real_was.frame >= 0) & (real_now.frame >= 0) & (now.kind != Shown.ZERO)
            known &= was.kind != Shown.ZERO
            yield from self._pages(
                f"{who} {name}",
                "new frame",
                was.frame != now.frame,
                real_was.frame != real_now.frame,
                known,
            )


def _common(*seen: Observation) -> Iterator[tuple[Any, ...]]:
    """Regions that are in all these observations, with the view of each."""
    for who in set.intersection(*(set(each.processes) for each in seen)):
        regions = [each.processes[who].regions for each in seen]
        for name in set.intersection(*map(set, regions)):
            views = [named[name] for named in regions]
            if len({len(view.kind) for view in views}) == 1:
                yield who, name, *views


def _all_frames(model: Observation, kernel: Observation) -> tuple[Any, NDArray[np.int64], NDArray[np.int64]]:
    """The frames of all pages that have one in both machines, and what names a page by its index."""
    labels: list[tuple[str, NDArray[np.int64]]] = []
    ours, theirs = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for who, name, view, real in _common(model, kernel):
        there = (view.frame >= 0) & (real.frame >= 0) & (view.kind != Shown.ZERO) & (real.kind != Shown.ZERO)
        labels.append((f"{who} {name}", np.flatnonzero(there)))
        ours.append(view.frame[there])
        theirs.append(real.frame[there])

    def place(index: int) -> str:
        for label, numbers in labels:
            if index < len(numbers):
                return f"{label} page {numbers[index]}"
            index -= len(numbers)
        raise IndexError(index)

    return place, np.concatenate(ours), np.concatenate(theirs)


def _split(one: NDArray[np.int64], other: NDArray[np.int64]) -> tuple[int, int] | None:
    """Two indexes that are equal in `one` and not in `other`, if there are any."""
    if not len(one):
        return None
    _, first, group = np.unique(one, return_index=True, return_inverse=True)
    wrong = np.flatnonzero(other != other[first[group]])
    return (int(first[group[wrong[0]]]), int(wrong[0])) if len(wrong) else None
