"""The helpers keep their promises; every other test rests on them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests import leaks
from tests.support import IS_ROOT, run_script


def test_a_script_runs_in_an_interpreter_of_its_own() -> None:
    result = run_script("import os, sys; print(os.getpid(), *sys.argv[1:])", args=["a", "b"])
    pid, *rest = result.stdout.split()
    assert int(pid) != os.getpid()
    assert rest == ["a", "b"]


def test_a_failing_script_fails_the_test_with_its_output() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"exit status 1[\s\S]*ValueError: told"):
        run_script("raise ValueError('told')")


def test_a_hanging_script_is_ended_and_shows_where_it_hung() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"not done after[\s\S]*script.py"):
        run_script("import signal; signal.pause()", timeout=1)


def test_a_process_left_behind_fails_the_script_and_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "GRACE", 0.1)
    before = leaks.descendants()
    with pytest.raises(pytest.fail.Exception, match="left processes behind"):
        run_script("import os, signal\nif os.fork() == 0: signal.pause()")
    assert leaks.descendants() == before


def test_an_orphan_that_ends_by_itself_is_no_complaint() -> None:
    before = leaks.descendants()
    run_script("import os\nif os.fork() == 0: os._exit(0)")
    assert leaks.descendants() == before


@pytest.mark.skipif(not IS_ROOT, reason="only root can become another user")
def test_a_script_run_as_nobody_has_no_rights_but_can_import_and_write() -> None:
    result = run_script(
        """
        import os, pathlib, tempfile
        import clonal._native
        pathlib.Path("here").write_text("in the working folder")
        tempfile.NamedTemporaryFile().close()
        print(os.geteuid(), open("/proc/self/status").read().split("CapEff:")[1].split()[0])
        """,
        user="nobody",
    )
    uid, capabilities = result.stdout.split()
    assert int(uid) != 0
    assert int(capabilities, 16) == 0


@pytest.mark.allow_leaks
def test_a_snapshot_complains_of_a_child_and_of_a_descriptor() -> None:
    before = leaks.Snapshot.take()
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    leak = os.open("/dev/null", os.O_RDONLY)
    complaints = before.complaints()
    os.close(leak)
    child.returncode = 0  # the snapshot has reaped it
    assert any(str(child.pid) in each for each in complaints)
    assert any("/dev/null" in each for each in complaints)
