"""SIGKILL of template, clones and client at random moments: nothing hangs, nothing is left."""

from __future__ import annotations

import contextlib
import os
import random
import signal

import pytest

import clonal
from tests import clone_work as work
from tests.support import run_script

ROUNDS = 12


def _outcome(clone: clonal.Clone) -> str:
    try:
        return f"value {clone.result(30)}"
    except clonal.Error as error:
        return type(error).__name__


@pytest.mark.parametrize("standby", [0, 2])
def test_killing_clones_at_random_disturbs_no_other(standby: int) -> None:
    dice = random.Random(1)
    with clonal.Template(standby=standby) as template:
        for _ in range(ROUNDS):
            clones = [template.clone(work.sleep_and_return, 0.01 * dice.random()) for _ in range(6)]
            victims = dice.sample(clones, 3)
            for victim in victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim.pid, signal.SIGKILL)
            for clone in clones:
                allowed = {"value slept"} | ({"CloneDied"} if clone in victims else set())
                assert _outcome(clone) in allowed
        assert template.clone(work.add, 1).result() == 2


@pytest.mark.parametrize("standby", [0, 1])
def test_killing_the_template_at_random_is_always_noticed(standby: int) -> None:
    dice = random.Random(2)
    for _ in range(ROUNDS // 3):
        with clonal.Template(standby=standby) as template:
            clones = [template.clone(work.sleep_and_return, 0.02 * dice.random()) for _ in range(4)]
            for _ in range(dice.randrange(4)):
                clones[0].done()
            os.kill(template.pid, signal.SIGKILL)
            assert {_outcome(clone) for clone in clones} <= {"value slept", "TemplateDied"}
            with pytest.raises(clonal.TemplateDied):
                for _ in range(3):
                    template.clone(work.add, 1).result()


def test_killing_the_client_at_random_leaves_no_process() -> None:
    run_script(
        """
        import os, random, signal, select, time
        import clonal
        from tests import clone_work as work

        def client(writing):
            with clonal.Template(standby=1) as template:
                os.write(writing, b"%d" % template.pid)
                while True:
                    clones = [template.clone(work.sleep_and_return, 0.003) for _ in range(4)]
                    for clone in clones:
                        clone.result()

        if __name__ == "__main__":
            dice = random.Random(3)
            for _ in range(4):
                reading, writing = os.pipe()
                pid = os.fork()
                if pid == 0:
                    client(writing)
                template = os.pidfd_open(int(os.read(reading, 20)))
                select.select([], [], [], 0.1 * dice.random())
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                assert work.ends(template)
        """,
        env={"PYTHONPATH": os.getcwd()},
    )
