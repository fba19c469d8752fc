"""`clonal doctor` on frameworks that fork: recognised, treated by the printed lines, healthy afterwards."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from clonal.observe.analyse import load
from clonal.observe.family import family
from tests.integration import doctor_programs as programs
from tests.integration.doctor_machine import OF_MACHINE
from tests.integration.test_doctor import CLONAL, PAGE, clonal, findings, needs_immortal
from tests.integration.test_record import needs_traps

needs_celery = pytest.mark.skipif(
    importlib.util.find_spec("celery") is None, reason="celery is not installed"
)

SHOP = """
from celery import Celery
from celery.signals import worker_ready
app = Celery("shop", broker="memory://")
app.conf.task_ignore_result = True
ITEMS = [{"id": number} for number in range(150_000)]
@app.task
def total():
    return sum(item["id"] for item in ITEMS)
@worker_ready.connect
def send(**_):
    for _ in range(8):
        total.delay()
"""
CELERY = ["-A", "shop", "worker", "-c", "2", "--without-gossip", "--without-mingle", "-l", "INFO"]


def recorded(
    folder: Path, name: str, command: list[str], until: Callable[[str], bool]
) -> tuple[Path, int, list[dict[str, Any]]]:
    """The recording of a framework up to that line of its log, the bytes that were copied, and what is found
    of its processes while they run."""
    path, running = folder / f"{name}.rec", []
    arguments = [*CLONAL, "record", "-o", str(path), "--", sys.executable, "-m", *command]
    process = subprocess.Popen(
        arguments, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    members: list[int] = []
    try:
        log: list[str] = []
        for line in process.stdout:
            log.append(line)
            if until(line):
                break
        else:
            pytest.fail("".join(log))
        members = [each.pid for each in family(process.pid) if each.pid != process.pid]
        found = json.loads(clonal("doctor", "--json", members[0]).stdout)["findings"]
        running = [each for each in found if each["finding"] not in OF_MACHINE]
    finally:
        for pid in members or [process.pid]:  # celery takes seconds to shut down
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=30)
    return path, len(load(path).by_program) * PAGE, running


def times(text: str, count: int) -> Callable[[str], bool]:
    """Whether a log has had so many lines with a text."""
    left = iter(range(count - 1))
    return lambda line: text in line and next(left, None) is None


@needs_traps
@needs_immortal
@needs_celery
def test_celery_is_treated_in_the_module_of_its_app(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    path, before, running = recorded(tmp_path, "before", ["celery", *CELERY], times("succeeded", 8))
    [found] = findings(path)
    assert found["finding"] == "reference-counts" and [each["finding"] for each in running] == [
        "objects-copied"
    ]
    assert found["remedy"] == running[0]["remedy"]
    assert found["remedy"]["where"] == "in the module that makes the Celery app"
    (tmp_path / "shop.py").write_text(SHOP + "\n".join(found["remedy"]["lines"]))
    path, after, running = recorded(tmp_path, "after", ["celery", *CELERY], times("succeeded", 8))
    assert abs((before - after) / found["gain_bytes"] - 1) <= 0.25, (before, after, found)
    assert findings(path) == [] and running == []


@needs_traps
def test_a_handler_that_a_worker_sets_for_all_signals_does_not_end_it(tmp_path: Path) -> None:
    script, path = tmp_path / "program.py", tmp_path / "recording"
    script.write_text(programs.SETS_SIGNALS)
    clonal("record", "-o", path, "--", sys.executable, script)
    assert len([copy for copy in load(path).by_program if copy.category == "large buffers"]) >= 256


@needs_traps
@pytest.mark.parametrize("program", [programs.HEALTHY, programs.HEALTHY_POOL, "print(sum(range(1000)))"])
def test_a_healthy_program_has_no_finding(program: str, tmp_path: Path) -> None:
    script = tmp_path / "healthy.py"
    script.write_text(program)
    done = clonal("doctor", "--fail-on", "any", "--", sys.executable, script)
    assert "nothing to change" in done.stdout and (not done.stderr or "has forked" in done.stderr)
