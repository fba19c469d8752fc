"""Nobody survives, nothing hangs and nothing is left behind, whoever is killed and however many clones."""

from __future__ import annotations

from pathlib import Path

import pytest

from clonal.kernel import cgroup
from tests.groups import in_group
from tests.support import run_script

SOURCE = (Path(__file__).parent / "storm.py").read_text()


def storm(*args: object, user: str | None = None, timeout: float = 110) -> None:
    print(run_script(SOURCE, args=list(map(str, args)), user=user, timeout=timeout).stdout)


def test_whoever_is_killed_is_told_of_and_takes_the_clones_along(user: str | None) -> None:
    storm("kill", 30, 1, user=user)


@pytest.mark.parametrize("standby", [0, 2])
def test_hundreds_of_clones_leave_nothing(user: str | None, standby: int) -> None:
    storm("many", 500, standby, user=user)


@pytest.mark.parametrize("small", [{"pids": 8}], indirect=True)
def test_a_fork_that_the_kernel_refuses_is_a_refused_clone(small: list[cgroup.Group]) -> None:
    """With the check beforehand left out: fork itself fails, at any of the clones."""
    in_group(
        small,
        """
import clonal
def main(t):
    t._headroom.check = lambda *_, **__: None
    for _ in range(3):
        clones = [t.clone(signal.pause) for _ in range(12)]
        refused = 0
        for clone in clones:
            if clone.pid == 0:
                assert isinstance(clone.exception(30), clonal.CloneRefused), clone.exception()
                refused += 1
        assert refused >= 4, refused
        for clone in clones:
            clone.kill()
            clone.wait(30)
    assert t.clone(len, "abc").result(30) == 3
if __name__ == "__main__":
    with clonal.Template() as t:
        main(t)
""",
    )


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(4))
def test_a_thousand_random_kills(user: str | None, seed: int) -> None:
    storm("kill", 250, seed, user=user, timeout=7000)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("count", "standby"), [(10_000, 0), (10_000, 2), (100_000, 0)])
def test_very_many_clones_leave_nothing(user: str | None, count: int, standby: int) -> None:
    storm("many", count, standby, user=user, timeout=7000)
