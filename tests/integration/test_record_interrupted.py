"""Signals that come while the recording is at work: what their handlers raise is the program's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from clonal.observe.analyse import load
from tests.integration.test_record import CLONAL, ROOT
from tests.support import run_script

PROGRAM = """
import os, signal, sys, traceback
from clonal.observe.record import hook

class Late(Exception):
    pass

def late(*_):
    raise Late

signal.signal(signal.SIGALRM, late)
me, where, number = os.getpid(), sys.argv[1], int(sys.argv[2])
recorder = hook.installed
begin = recorder.start

def start():
    if (os.getpid() == me) == (where == "parent"):
        signal.raise_signal(number)
    begin()

recorder.start = start
child = None
try:
    child = os.fork()
    where = "nowhere"
except (KeyboardInterrupt, Late):
    print(traceback.format_exc())
    if os.getpid() != me:
        os._exit(0)
if child == 0:
    os._exit(0)
os.wait()
raise SystemExit(7)
"""


@pytest.mark.parametrize("number", ["2", "14"])
@pytest.mark.parametrize("where", ["parent", "child"])
def test_what_a_handler_raises_after_a_fork_is_raised_in_the_program(
    where: str, number: str, tmp_path: Path
) -> None:
    program, path = tmp_path / "program.py", tmp_path / "r"
    program.write_text(PROGRAM)
    command = [*CLONAL, "-o", str(path), "--backend", "snapshot", "--", sys.executable, str(program)]
    done = subprocess.run([*command, where, number], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 7 and "Exception ignored" not in done.stderr, done.stderr
    assert done.stdout.strip().endswith("KeyboardInterrupt" if number == "2" else "Late"), done.stdout
    assert done.stdout.count("Traceback") == 1 and "hook.py" not in done.stdout
    assert len(load(path).processes) == 1, "the other is recorded"


@pytest.mark.newest
def test_neither_writing_out_nor_the_end_of_a_process_is_lost() -> None:
    run_script(
        """
        import os
        from contextlib import suppress
        from clonal.observe.record.hook import Recorder

        def interrupted():
            raise KeyboardInterrupt

        recorder = Recorder("r", 1 << 20)
        recorder._write_new = recorder.finish = interrupted
        with suppress(KeyboardInterrupt):
            recorder.drain()
        assert not recorder._draining
        child = os.fork()
        if not child:
            recorder.exit(5)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
        """
    )
