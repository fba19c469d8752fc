"""What `make` does before any of our code is there: find an interpreter, or say what lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

WRAPPER = '#!/bin/sh\nexec "{python}" "$@"\n'


def sh(script: str, *args: str, path: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "scripts" / script), *args],
        env={"PATH": path, "HOME": "/nonexistent", **env},
        capture_output=True,
        text=True,
        check=False,
    )


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH folder with what the scripts call and no python (dash and coreutils alone)."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "dirname", "cut", "sort", "tail", "head", "ls", "id", "tr", "sed", "make"):
        found = next(Path(each, name) for each in os.defpath.split(":") if Path(each, name).exists())
        (folder / name).symlink_to(found)
    executable(folder / "cc", f'#!/bin/sh\nPATH={os.defpath} exec cc "$@"\n')
    return folder


def with_search_limited_to_path(tmp_path: Path) -> Path:
    """A copy of the scripts that does not look in /usr/bin, whatever this machine has there."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    for name in ("pick-python", "preflight", "probe_python.py"):
        text = (ROOT / "scripts" / name).read_text().replace("$PATH /usr/local/bin /usr/bin", "$PATH")
        executable(folder / name, text)
    return folder


def test_a_shim_that_fails_is_passed_over(tools: Path, tmp_path: Path) -> None:
    executable(tools / "python3.19", "#!/bin/sh\necho 'not in this version' >&2\nexit 127\n")
    executable(tools / "python3.13", WRAPPER.format(python=sys.executable))
    scripts = with_search_limited_to_path(tmp_path)
    picked = sh(str(scripts / "pick-python"), path=str(tools))
    assert Path(picked.stdout.strip()).resolve() == Path(sys.executable).resolve()
    why = sh(str(scripts / "pick-python"), "why", path=str(tools))
    assert "python3.19 does not run" in why.stdout


def test_pyenvs_versions_are_found_though_not_on_the_path(tools: Path, tmp_path: Path) -> None:
    there = tmp_path / "pyenv" / "versions" / "3.x" / "bin"
    there.mkdir(parents=True)
    executable(there / "python3.13", WRAPPER.format(python=sys.executable))
    scripts = with_search_limited_to_path(tmp_path)
    picked = sh(str(scripts / "pick-python"), path=str(tools), PYENV_ROOT=str(tmp_path / "pyenv"))
    assert Path(picked.stdout.strip()).resolve() == Path(sys.executable).resolve()


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ("sys.version_info = (3, 10, 9, 'final', 0)", "is older than 3.11"),
        ("sysconfig.get_config_var = lambda name: name == 'Py_GIL_DISABLED'", "is a free-threaded build"),
        ("sysconfig.get_path = lambda name: '/nonexistent'", "has no headers"),
        ("sys.modules['venv'] = None", "has no venv"),
        ("sys.implementation.name = 'pypy'", "is not CPython"),
    ],
)
def test_an_unusable_interpreter_is_refused_with_the_reason(
    lie: str, reason: str, tools: Path, tmp_path: Path
) -> None:
    code = f"import runpy, sys, sysconfig; {lie}; runpy.run_path(sys.argv[2])"
    executable(tools / "python3.13", f'#!/bin/sh\nexec "{sys.executable}" -c "{code}" "$@"\n')
    scripts = with_search_limited_to_path(tmp_path)
    picked = sh(str(scripts / "pick-python"), path=str(tools))
    assert (picked.returncode, picked.stdout) == (1, "")
    assert reason in sh(str(scripts / "pick-python"), "why", path=str(tools)).stdout


def test_python_in_the_environment_overrides_the_search() -> None:
    picked = sh("pick-python", path=os.environ["PATH"], PYTHON=sys.executable)
    assert Path(picked.stdout.strip()).resolve() == Path(sys.executable).resolve()
    assert sh("pick-python", path=os.environ["PATH"], PYTHON="/nonexistent").returncode == 1


def test_the_preflight_without_apt_prints_the_one_command(tools: Path, tmp_path: Path) -> None:
    scripts = with_search_limited_to_path(tmp_path)
    refused = sh(str(scripts / "preflight"), path=str(tools))
    assert refused.returncode == 1
    assert "sudo apt-get install -y python3 python3-dev python3-venv" in refused.stderr


def test_the_preflight_as_root_with_apt_installs_what_lacks(tools: Path, tmp_path: Path) -> None:
    (tools / "cc").unlink()
    (tools / "id").unlink()
    executable(tools / "id", "#!/bin/sh\necho 0\n")
    log = tmp_path / "log"
    executable(tools / "apt-get", f'#!/bin/sh\necho "$DEBIAN_FRONTEND $*" >>{log}\n')
    executable(tools / "python3.13", WRAPPER.format(python=sys.executable))
    scripts = with_search_limited_to_path(tmp_path)
    refused = sh(str(scripts / "preflight"), path=str(tools))
    update, install = log.read_text().splitlines()
    assert update.startswith("noninteractive update")
    assert install.endswith("gcc libc6-dev")
    assert refused.returncode == 1  # this apt-get installed nothing
