"""The model and the running kernel agree after every step, page by page of every process: kind of page,
who shares the frame, mapped once, faults of the step, RSS, page tables, what is charged."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, given, reject, seed, settings
from hypothesis import strategies as st

from clonal.model import Config
from clonal.scenario import KernelRunner, ModelRunner, NotModelled, Scenario, Tally, compare, parse
from tests.conformance.combinations import HUGE, combinations, rare
from tests.conformance.scenarios import Author

pytestmark = [pytest.mark.newest, pytest.mark.allow_leaks]  # the runners live as long as the module

COMBINATIONS = dict(combinations())
LEAST = 20  # hits of each operation with each outcome


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelRunner]:
    with KernelRunner() as runner:
        yield runner


def agree(scenario: Scenario, kernel: KernelRunner, tally: Tally) -> None:
    with ModelRunner(Config(overcommit=kernel.overcommit)) as model:
        found = compare(scenario, model, kernel, tally)
    assert not found, "\n".join(map(str, found)) + f"\n{scenario}"


def assert_compared(tally: Tally, kernel: KernelRunner) -> None:
    """As root frames were compared; without privilege it is told what was."""
    print(tally)
    assert tally.compared["pages: kind"] and tally.compared["pages: mapped once"]
    assert bool(tally.compared["pages: frame"]) == kernel.frames_shown


def test_every_combination_of_access_moment_process_and_memory(kernel: KernelRunner) -> None:
    assert len(COMBINATIONS) == 2 * 2 * 3 * 9
    tally = Tally()
    for scenario in COMBINATIONS.values():
        agree(scenario, kernel, tally)
    assert tally.scenarios == len(COMBINATIONS)
    assert_compared(tally, kernel)


def generated(kernel: KernelRunner, examples: int) -> Tally:
    """Other ones after a change of any source: hypothesis takes constants from it."""
    tally, left_out = Tally(), []

    @seed(0)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=examples <= 500,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=False))
    def check(random: Random) -> None:
        scenario = Author(random).write()
        assert len(scenario) >= 8
        assert len({step.args[1] for step in scenario if step.op == "map"}) >= 3
        assert sum(step.op in ("fork", "vfork") for step in scenario) >= 2
        try:
            agree(scenario, kernel, tally)
        except NotModelled as error:  # rare; each has a test below
            left_out.append(str(error))
            reject()

    check()
    print(f"{len(left_out)} scenarios left out: {sorted(set(left_out))}")
    assert len(left_out) <= examples / 50
    return tally


def test_scenarios_at_random(kernel: KernelRunner) -> None:
    tally = generated(kernel, 500)
    for scenario in rare(range(4, 4 + LEAST)):
        agree(scenario, kernel, tally)
    assert_compared(tally, kernel)
    seldom = {each: n for each, n in tally.outcomes.items() if n < LEAST and each[1] != "dead"}
    assert not seldom, f"operations with an outcome met less than {LEAST} times: {seldom}"


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_twenty_thousand_scenarios(kernel: KernelRunner) -> None:
    assert_compared(generated(kernel, 20_000), kernel)


@pytest.mark.parametrize("name", HUGE)
def test_huge_pages(name: str, kernel: KernelRunner) -> None:
    agree(HUGE[name], kernel, Tally())


NOT_MODELLED = {
    "MADV_FREE of huge pages": "p: map a thp 512\np: write a 0\np: madvise a 0-511 free",
    "MADV_COLLAPSE of files": "p: map a shared 512\np: write a 0-9\np: madvise a 0-511 collapse",
}


@pytest.mark.parametrize("what", NOT_MODELLED)
def test_what_is_not_modelled_is_said_so(what: str, kernel: KernelRunner) -> None:
    scenario = parse(NOT_MODELLED[what])
    assert [seen.outcome.result for seen in kernel.play(scenario)] == ["ok"] * len(scenario)
    with ModelRunner() as model, pytest.raises(NotModelled, match=what):
        list(model.play(scenario))
