"""The measure itself: two runs of the real kernel show the same. What differs between them no model
could foretell."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from clonal.scenario import KernelRunner, Tally, compare
from tests.conformance.combinations import combinations
from tests.conformance.scenarios import Author

pytestmark = pytest.mark.newest


@pytest.fixture(scope="module")
def kernels() -> Iterator[tuple[KernelRunner, KernelRunner]]:
    with KernelRunner() as one, KernelRunner() as other:
        yield one, other


@pytest.mark.allow_leaks  # the runners live as long as the module
def test_two_runs_of_the_kernel_show_the_same(kernels: tuple[KernelRunner, KernelRunner]) -> None:
    tally = Tally()
    some = [scenario for _, scenario in combinations()][::9]
    for scenario in [*some, *(Author(Random(seed)).write() for seed in range(40))]:
        assert compare(scenario, *kernels, tally) == [], str(scenario)
    print(tally)
    assert tally.compared["pages: kind"] > 0
    assert bool(tally.compared["pages: frame"]) == kernels[0].frames_shown
