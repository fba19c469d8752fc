"""The C core compiles for both machines without a warning and runs clean under the sanitizers.

ASan keeps its shadow in private memory that nothing may move, so no process with ASan can be
frozen: it checks the parts that are plain C. UBSan has no such state and checks the freeze too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT, run_script

CROSS = "aarch64-linux-gnu-gcc"
REPORTS = ("runtime error:", "AddressSanitizer")


@pytest.mark.parametrize("compiler", ["cc", CROSS])
def test_the_core_compiles_without_a_warning(compiler: str) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    command = [sys.executable, "scripts/compile_check.py", "--cc", compiler]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def sanitized(sanitizer: str, folder: Path) -> dict[str, str]:
    """Build the package with a sanitizer into `folder`; the environment that runs it."""
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    environment = {**os.environ, "CLONAL_SANITIZE": sanitizer, "CLONAL_WERROR": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if "cannot find" in done.stderr:
        pytest.skip(f"no runtime library for -fsanitize={sanitizer}: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return {"PYTHONPATH": str(folder / "src"), "UBSAN_OPTIONS": "print_stacktrace=1"}


def runtime_library(name: str) -> str:
    """Path of a sanitizer's runtime; it must come before all else in a python without it."""
    shown = subprocess.run(["cc", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    path = shown.stdout.strip()
    if not os.path.isabs(path):
        pytest.skip(f"the compiler has no {name}")
    return path


def run_clean(source: str, env: dict[str, str]) -> None:
    """Run a script whose `_native` must be the sanitized one, and which must draw no report."""
    result = run_script(source, env=env, timeout=110)
    for report in REPORTS:
        assert report not in result.stderr, result.stderr


PLAIN = """
import os, sys
from clonal import _native
assert _native.__file__.startswith(os.environ["PYTHONPATH"]), _native.__file__
"""


def test_the_core_runs_clean_under_ubsan(tmp_path: Path) -> None:
    run_clean(PLAIN, sanitized("undefined", tmp_path))


def test_the_plain_c_parts_run_clean_under_asan(tmp_path: Path) -> None:
    library = runtime_library("libasan.so")
    env = sanitized("address", tmp_path)
    env |= {"LD_PRELOAD": library, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
    run_clean(PLAIN, env)
