"""The `clonal` command before any verb: help, version, and one line for each mistake."""

from __future__ import annotations

import subprocess
import sys

import pytest

import clonal

CLONAL = [sys.executable, "-m", "clonal.cli.main"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CLONAL, *arguments], capture_output=True, text=True, timeout=60)


def test_alone_it_prints_its_verbs() -> None:
    result = run()
    assert result.returncode == 0
    assert "usage: clonal" in result.stdout
    assert "run " in result.stdout
    assert "bench " in result.stdout


def test_it_tells_its_version() -> None:
    result = run("--version")
    assert (result.returncode, result.stdout) == (0, f"clonal {clonal.__version__}\n")


@pytest.mark.parametrize("verb", ["run", "bench", "explain", "report", "map", "doctor"])
def test_every_verb_has_help(verb: str) -> None:
    result = run(verb, "--help")
    assert result.returncode == 0
    assert f"usage: clonal {verb}" in result.stdout
    assert "--json" in result.stdout


@pytest.mark.parametrize("arguments", [["clown"], ["--clown"], ["run", "--clown", "x.py"]])
def test_a_wrong_command_line_gives_one_line(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("clonal: ")
    assert result.stderr.count("\n") == 1


def test_a_missing_extra_is_named() -> None:
    code = "import sys; sys.modules['rich'] = None\nfrom clonal.cli.main import main; sys.exit(main(['run']))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert result.stderr == "clonal: rich is not installed: pip install 'clonal[cli]'\n"


def test_help_imports_neither_rich_nor_numpy_nor_the_verbs() -> None:
    code = (
        "import sys\nfrom clonal.cli.main import main\nmain([])\n"
        "print(sorted({'rich', 'numpy', 'clonal.cli.run', 'clonal.clone.template'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.endswith("[]\n")
