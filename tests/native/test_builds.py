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
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
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


FREEZE = """
import threading, clonal
data = {str(number): [number] for number in range(200_000)}
parked, released = threading.Event(), threading.Event()
thread = threading.Thread(target=lambda: (parked.set(), released.wait()))
thread.start()
parked.wait()
for generation in 1, 2:
    report = clonal.freeze()
    assert report.bytes_imaged > 0, report
    data.update((str(number), [number]) for number in range(100_000))
released.set()
thread.join()
pid = os.fork()
if pid == 0:
    os._exit(0 if all(data[str(number)] == [number] for number in range(200_000)) else 1)
assert os.waitpid(pid, 0)[1] == 0
"""

LAUNCH = """
import clonal
with clonal.launch(["echo", "launched"], stdout=-1, env={"PATH": os.environ["PATH"]}) as process:
    assert process.stdout.read() == b"launched\\n"
try:
    clonal.launch(["/nonexistent"])
except FileNotFoundError:
    pass
else:
    raise AssertionError("a missing program was launched")
"""


def test_freezes_and_launches_run_clean_under_ubsan(tmp_path: Path) -> None:
    run_clean(PLAIN + LAUNCH + FREEZE, sanitized("undefined", tmp_path))


def test_the_plain_c_parts_run_clean_under_asan(tmp_path: Path) -> None:
    library = runtime_library("libasan.so")
    env = sanitized("address", tmp_path)
    env |= {"LD_PRELOAD": library, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
    run_clean(PLAIN + LAUNCH, env)
