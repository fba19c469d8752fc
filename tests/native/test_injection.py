"""Every system call of a freeze fails in turn; memory is as before and the process goes on."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.support import run_script

HERE = Path(__file__).parent
ENOMEM, EPERM, ENOSPC = 12, 1, 28
# Nothing is lost when these fail: a descriptor is closed all the same, and what an munmap leaves is
# addresses without memory.
HARMLESS = {3: "close", 11: "munmap", 202: "futex"}
MADVISE, PREAD = 28, 17


@pytest.fixture(scope="module")
def inject(tmp_path_factory: pytest.TempPathFactory) -> str:
    if platform.machine() != "x86_64":
        pytest.skip(f"the injecting program knows the registers of x86-64 only, not {platform.machine()}")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("inject")
    program = folder / "inject"
    subprocess.run(
        [compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(HERE / "inject.c")],
        check=True,
    )
    return str(program)


def drive(inject: str, timeout: float = 100, user: str | None = None, **plan: Any) -> list[dict[str, Any]]:
    given = {"again": False, "huge": True, "public": False, "threads": False, "whole": False, "mode": "error"}
    given |= {"errno": ENOMEM, "step": 1, **plan}
    source = (HERE / "inject_driver.py").read_text()
    done = run_script(source, args=[inject, json.dumps(given)], timeout=timeout, user=user)
    return [json.loads(line) for line in done.stdout.splitlines()]


def unsaid(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Failures that nothing was said of, and that are not harmless."""
    return [each for each in found if each["call"] >= 0 and not each["said"] and each["call"] not in HARMLESS]


@pytest.mark.parametrize("huge", [True, False], ids=["huge", "small"])
@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
def test_any_call_of_a_freeze_may_fail(inject: str, again: bool, huge: bool) -> None:
    found = drive(inject, again=again, huge=huge, step=67)
    assert len(found) > 10
    assert not unsaid([each for each in found[1:] if each["call"] != MADVISE])


@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
def test_a_switch_may_fail_after_it_has_unmapped(inject: str, again: bool) -> None:
    """mremap and mmap unmap first and may return ENOMEM then: the data are in the image alone."""
    found = drive(inject, again=again, mode="unmapped", step=1 if again else 3)  # the second has few calls
    assert any(each["call"] >= 0 for each in found[1:])


def test_any_call_may_fail_while_other_threads_write(inject: str) -> None:
    found = drive(inject, threads=True, step=151)
    assert any("cannot be read" in str(each["said"]) for each in found[1:]), "no stop of threads failed"


def test_the_report_says_what_failed(inject: str) -> None:
    found = drive(inject, public=True, errno=EPERM, step=97)
    told = [each for each in found[1:] if each["said"]]
    assert any("memfd_create" in str(each["said"]) for each in told), found
    assert not unsaid([each for each in found[1:] if each["call"] not in (MADVISE, PREAD)])


def test_any_call_of_all_that_freeze_does_in_python_may_fail(inject: str) -> None:
    found = drive(inject, whole=True, step=997)
    assert found[0]["count"] > 500


def test_an_ordinary_users_freeze_may_fail_too(inject: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to others
        os.chmod(folder, 0o755)
        drive(shutil.copy(inject, folder), step=131, user="nobody")


@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
def test_strace_counts_as_many_calls(inject: str, again: bool) -> None:
    """The texts of /proc take a read more or less from one subject to the next: one of four must agree."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    counts = drive(inject, again=again, step=0)[1]["strace"]
    if counts[0][0] is None:
        pytest.skip("strace cannot trace here")
    ours = {ours for _, ours in counts}
    assert ours & {theirs for theirs, _ in counts}, counts


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("errno", [ENOMEM, EPERM, ENOSPC])
@pytest.mark.parametrize("huge", [True, False], ids=["huge", "small"])
@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
def test_every_call_of_a_freeze_may_fail(inject: str, again: bool, huge: bool, errno: int) -> None:
    found = drive(inject, timeout=3600, again=again, huge=huge, errno=errno)
    assert len(found) > 60
    print(f"\n{len(found) - 1} calls failed in turn with errno {errno}")


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("variant", ["unmapped", "threads", "public", "whole"])
@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
def test_every_call_may_fail_in_other_ways(inject: str, again: bool, variant: str) -> None:
    plan: dict[str, Any] = {"mode": "unmapped"} if variant == "unmapped" else {variant: True}
    found = drive(inject, timeout=3600, again=again, **plan)
    print(f"\n{len(found) - 1} calls failed in turn, {variant}")
