"""Limits and deaths as the user of a Template sees them."""

from __future__ import annotations

import pytest

from clonal.kernel import cgroup
from tests.groups import in_group
from tests.support import run_script

MB = 1 << 20

TEMPLATE = """
import os, signal, time
import clonal

def eat(size):
    chunk = bytearray(size)
    for at in range(0, size, 4096):
        chunk[at] = 1
    return len(chunk)

def wait():
    signal.pause()

if __name__ == "__main__":
    with clonal.Template() as t:
"""


@pytest.mark.parametrize("small", [{"memory": 160 * MB}], indirect=True)
def test_a_clone_that_the_oom_killer_ended_says_so(small: list[cgroup.Group]) -> None:
    in_group(
        small,
        TEMPLATE
        + """
        assert t.clone(eat, 10 * MB).result(30) == 10 * MB
        for _ in range(2):
            error = t.clone(eat, 400 * MB).exception(30)
            assert isinstance(error, clonal.CloneDied) and error.oom, error
            assert error.signal == signal.SIGKILL, error
        clone = t.clone(wait)
        os.kill(clone.pid, signal.SIGKILL)
        error = clone.exception(30)
        assert isinstance(error, clonal.CloneDied) and not error.oom, error
        assert t.clone(eat, 10 * MB).result(30) == 10 * MB
""",
    )


@pytest.mark.parametrize("small", [{"pids": 10}], indirect=True)
def test_a_clone_too_many_is_refused_and_the_template_goes_on(small: list[cgroup.Group]) -> None:
    in_group(
        small,
        TEMPLATE
        + """
        clones = []
        try:
            for _ in range(20):
                clones.append(t.clone(wait))
                assert clones[-1].pid
        except CloneRefused as error:
            assert error.limit.startswith("pids cgroup /") and error.unit == "tasks", error
        else:
            raise AssertionError(len(clones))
        assert len(clones) >= 6, len(clones)
        for clone in clones:
            clone.kill()
            clone.wait(30)
        assert t.clone(eat, 1).result(30) == 1
""",
    )


def test_a_template_that_was_killed_is_said_to_have_died(user: str | None) -> None:
    run_script(
        TEMPLATE
        + """
        import select
        assert t.clone(eat, 1).result(30) == 1
        pidfd = os.pidfd_open(t.pid)
        os.kill(t.pid, signal.SIGKILL)
        select.select([pidfd], [], [], 30)
        for _ in range(3):
            try:
                t.clone(eat, 1).result(30)
            except clonal.TemplateDied as error:
                assert error.pid == t.pid, error
            else:
                raise AssertionError
            t._headroom._settings_until = t._headroom._until = 0.0
""",
        user=user,
    )
