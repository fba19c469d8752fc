"""Runs a test body below the text of guard_support, with the library whose calls are redirected."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
import textwrap
from functools import cache
from pathlib import Path

import pytest

from tests.support import Result, run_script

SKIPPED = 77  # guard_support.skip
HERE = Path(__file__).resolve().parent


@cache
def calls_library() -> str:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: the library whose calls are redirected cannot be built")
    folder = Path(tempfile.mkdtemp(prefix="clonal-guard-calls-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o755)  # for an ordinary user too
    library = folder / "guard_calls.so"
    source = HERE / "guard_calls.c"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, source], check=True)
    return str(library)


def run_guarded(
    body: str, *, check: bool = True, env: dict[str, str] | None = None, user: str | None = None
) -> Result:
    environment = {"GUARD_CALLS": calls_library(), **(env or {})}
    script = (HERE / "guard_support.py").read_text() + textwrap.dedent(body)
    result = run_script(script, env=environment, check=False, user=user)
    if result.returncode == SKIPPED:
        pytest.skip(result.stdout.strip())
    if check and result.returncode != 0:
        pytest.fail(f"the script failed: {result}", pytrace=False)
    return result
