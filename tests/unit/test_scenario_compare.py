"""Comparing two machines where one is disturbed: what counts as a difference, and what as agreement."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from clonal.scenario import Scenario, compare, parse
from clonal.scenario.compare import MOST_PLAYS, PROOF
from clonal.scenario.model import ModelRunner
from clonal.scenario.observation import Observation

pytestmark = pytest.mark.newest
SCENARIO = parse("parent: map heap anon 16\n" + "parent: write heap 0-3\n" * (MOST_PLAYS + 1))


class Disturbed(ModelRunner):
    """A machine on which `disturbs(play, step)` says when something else charges a page."""

    def __init__(self, disturbs: Callable[[int, int], bool]) -> None:
        super().__init__()
        self._disturbs, self.plays = disturbs, 0

    def play(self, scenario: Scenario) -> Iterator[Observation]:
        self.plays += 1
        for number, seen in enumerate(super().play(scenario)):
            parent = seen.processes["parent"]
            more = replace(parent, charged=parent.charged + self._disturbs(self.plays, number))
            yield replace(seen, processes=seen.processes | {"parent": more})


def differences(disturbs: Callable[[int, int], bool]) -> tuple[int, int]:
    """How many were found, after how many plays."""
    kernel = Disturbed(disturbs)
    return len(compare(SCENARIO, ModelRunner(), kernel)), kernel.plays


def test_a_play_without_a_difference_is_agreement() -> None:
    assert differences(lambda play, step: False) == (0, 1)
    assert differences(lambda play, step: play < PROOF and step == 2) == (0, PROOF)


def test_a_difference_counts_when_enough_plays_show_it() -> None:
    assert differences(lambda play, step: step == 2) == (1, PROOF)


def test_that_no_play_went_well_is_no_agreement() -> None:
    found, plays = differences(lambda play, step: play == step)
    assert (found, plays) == (1, MOST_PLAYS)
