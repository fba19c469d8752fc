"""CPython's own test suites have the same outcomes in a frozen process, and in clones, as elsewhere."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import leaks

HERE = Path(__file__).parent
QUICK = ["frozen_objects", "test_dict", "test_list", "test_gc", "test_generators", "test_json"]
ALL = [
    "frozen_objects", "test_dict", "test_dictviews", "test_list", "test_set", "test_gc", "test_weakref",
    "test_weakset", "test_json", "test_re", "test_functools", "test_generators", "test_coroutines",
    "test_pickle", "test_ctypes", "test_mmap", "test_decimal", "test_io", "test_threading",
    "test_subprocess", "test_multiprocessing_main_handling", "test_multiprocessing_fork.test_processes",
    "test_multiprocessing_fork.test_misc", "test_multiprocessing_spawn.test_processes",
    "test_multiprocessing_spawn.test_misc",
]  # fmt: skip

# Tests whose outcome must differ, and why. (Way, end of the test's id) → reason.
DIFFERENT: dict[tuple[str, str], str] = {}


def available(modules: list[str]) -> list[str]:
    """Those that this interpreter has; packaged ones often come without CPython's tests."""
    return [name for name in modules if name == "frozen_objects" or _has(f"test.{name}")]


def tell_missing(modules: list[str]) -> None:
    """Skips, after what there was has passed, if suites were missing."""
    if missing := [name for name in modules if name not in available(modules)]:
        pytest.skip(f"passed, but {sys.executable} comes without {', '.join(missing)}")


def _has(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False


def run(way: str, megabytes: int, modules: list[str], folder: Path, timeout: float) -> dict[str, Any]:
    """The outcomes of all tests, {} for what was not run. Fails if the process died."""
    work = folder / way
    work.mkdir()
    outcomes, said = folder / f"{way}.json", folder / f"{way}.txt"
    before = leaks.descendants()
    command = [sys.executable, str(HERE / "suites.py"), way, str(megabytes), str(outcomes), *modules]
    with said.open("w") as out:
        process = subprocess.Popen(
            command, cwd=work, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            env={**os.environ, "TMPDIR": str(work)},
        )  # fmt: skip
        try:
            status: int | str = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = f"not done after {timeout:g} s"
        leaks.end_stragglers(before)  # some suites leave processes behind
    if status != 0:
        pytest.fail(f"{way}: {status}\n{said.read_text()[-4000:]}", pytrace=False)
    return json.loads(outcomes.read_text())


def compare(way: str, megabytes: int, modules: list[str], folder: Path, timeout: float) -> None:
    """Runs a way and its twin; fails with both texts where a test's outcome differs."""
    twin = {"frozen": "plain", "clones": "forked"}[way]
    theirs = run(twin, megabytes, modules, folder, timeout)
    ours = run(way, megabytes, modules, folder, timeout)
    assert theirs["outcomes"].keys() == ours["outcomes"].keys()
    different = []
    for name, outcome in theirs["outcomes"].items():
        expected = any(w == way and name.endswith(end) for w, end in DIFFERENT)
        if ours["outcomes"][name] != outcome and not expected:
            texts = ours["texts"].get(name, ""), theirs["texts"].get(name, "")
            different.append(
                f"{name}: {ours['outcomes'][name]}, twin: {outcome}\n{texts[0][-1500:]}{texts[1][-1500:]}"
            )
    tests = len(theirs["outcomes"])
    passed = sum(outcome == "ok" for outcome in ours["outcomes"].values())
    print(f"{way}: {tests} tests of {len(modules)} modules, {passed} passed, {len(different)} differ")
    assert not different, "\n".join(different)
    assert passed > tests / 2


@pytest.mark.allow_leaks
@pytest.mark.parametrize("way", ["frozen", "clones"])
def test_a_selection_of_suites_has_its_twins_outcomes(way: str, tmp_path: Path) -> None:
    compare(way, 60, available(QUICK), tmp_path, 60)
    tell_missing(QUICK)


@pytest.mark.soak
@pytest.mark.allow_leaks
@pytest.mark.timeout(6000)
@pytest.mark.parametrize("way", ["frozen", "clones"])
def test_all_suites_have_their_twins_outcomes(way: str, tmp_path: Path) -> None:
    compare(way, 300, available(ALL), tmp_path, 2900)
    tell_missing(ALL)
