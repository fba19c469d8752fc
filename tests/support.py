"""Helpers for tests: run a body in a fresh interpreter, as another user, and leave nothing behind.

pytest itself must never be frozen or forked from, so whatever freezes or forks goes through
`run_script`.
"""

from __future__ import annotations

import atexit
import functools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from tests import leaks

ROOT = Path(__file__).resolve().parent.parent
NOBODY = "nobody"
IS_ROOT = os.geteuid() == 0


@dataclass(frozen=True)
class Result:
    """How a script ended and what it wrote."""

    returncode: int
    stdout: str
    stderr: str

    def __str__(self) -> str:
        return f"exit status {self.returncode}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


@dataclass(frozen=True)
class Interpreter:
    """A python to run, and what its environment must hold for `import clonal` to work."""

    path: str
    env: Mapping[str, str]


def run_script(
    source: str,
    *,
    python: str | None = None,
    user: str | None = None,
    env: Mapping[str, str] | None = None,
    args: Sequence[str] = (),
    timeout: float = 60,
    check: bool = True,
) -> Result:
    """Run `source` as the `__main__` file of a fresh interpreter, in a folder of its own.

    The test fails, with all output, if the script exits non-zero (unless check=False), takes
    longer than `timeout`, or leaves a process behind that lives on. With user="nobody" the script
    runs without root's rights (as it does anyway where pytest runs as an ordinary user).
    """
    user = user if IS_ROOT else None
    interpreter = Interpreter(python or sys.executable, {})
    if user is not None and python is None:
        interpreter = ordinary_interpreter()
    with tempfile.TemporaryDirectory(prefix="clonal-test-") as folder:
        script = Path(folder, "script.py")
        script.write_text(textwrap.dedent(source))
        if user is not None:
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        command = [interpreter.path, str(script), *args]
        environment = _environment(folder, interpreter.env, env or {})
        result = _run(command, folder, environment, user, timeout)
    if check and result.returncode != 0:
        pytest.fail(f"the script failed: {result}", pytrace=False)
    return result


def _environment(home: str, *extra: Mapping[str, str]) -> dict[str, str]:
    """Ours, with a HOME and TMPDIR the script may write; tracebacks of crashes switched on."""
    merged = {**os.environ, "HOME": home, "TMPDIR": home, "PYTHONFAULTHANDLER": "1"}
    merged.pop("PYTEST_CURRENT_TEST", None)
    for each in extra:
        merged.update(each)
    return merged


def _run(
    command: Sequence[str], cwd: str, env: Mapping[str, str], user: str | None, timeout: float
) -> Result:
    """Output goes to files, so that a process left behind cannot keep us waiting on a pipe."""
    before = leaks.descendants()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
            user=user,
            group=pwd.getpwnam(user).pw_gid if user else None,
            extra_groups=[] if user else None,
        )
        late = not _wait(process, timeout)
        left = leaks.end_stragglers(before)
        result = Result(process.returncode, _read(out), _read(err))
    if late:
        pytest.fail(f"the script was not done after {timeout:g} s: {result}", pytrace=False)
    if left:
        pytest.fail(f"the script left processes behind: {left}\n{result}", pytrace=False)
    return result


def _wait(process: subprocess.Popen[bytes], timeout: float) -> bool:
    """False if it had to be ended; by SIGABRT, so that faulthandler says where it hung."""
    try:
        process.wait(timeout)
        return True
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGABRT)
    try:
        process.wait(leaks.GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return False


def _read(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


@functools.cache
def ordinary_interpreter() -> Interpreter:
    """An interpreter like ours that `nobody` may run: ours, or where folders above it are closed
    to others (root's home), a tree of hard links to it."""
    ours = Interpreter(sys.executable, {})
    if _works_for_nobody(ours):
        return ours
    tree = Path(tempfile.mkdtemp(prefix="clonal-python-"))
    atexit.register(shutil.rmtree, tree, ignore_errors=True)
    tree.chmod(0o755)
    _link_tree(Path(sys.base_prefix), tree / "base")
    _link_tree(Path(sysconfig.get_path("purelib")), tree / "site")
    _link_tree(ROOT / "src" / "clonal", tree / "site" / "clonal")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    env = {"PYTHONPATH": str(tree / "site"), "LD_LIBRARY_PATH": str(tree / "base" / "lib")}
    linked = Interpreter(str(tree / "base" / "bin" / version), env)
    if not _works_for_nobody(linked):
        pytest.skip(f"no interpreter that {NOBODY} may run: {sys.executable} is out of reach")
    return linked


def _works_for_nobody(interpreter: Interpreter) -> bool:
    try:
        run = subprocess.run(
            [interpreter.path, "-c", "import clonal._native, cloudpickle"],
            cwd="/",
            env=_environment("/nonexistent", interpreter.env),
            user=NOBODY,
            group=pwd.getpwnam(NOBODY).pw_gid,
            extra_groups=[],
            capture_output=True,
            check=False,
        )
    except OSError:  # not even reachable
        return False
    return run.returncode == 0


def _link_tree(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True, copy_function=_link, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
