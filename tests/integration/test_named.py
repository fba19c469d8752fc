"""`clonal map`, `top` and `doctor` take the name of a program, a script or a template for its process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from clonal.cli.main import main
from clonal.kernel import procfs
from clonal.observe.named import NotNamed, find, names

pytestmark = pytest.mark.newest

TEMPLATE = """
import clonal, sys
def work():
    return 1
if __name__ == "__main__":
    with clonal.Template() as template:
        print(template.clone(work).result(), flush=True)
        input()
"""
FORKS = "import os; pid = os.fork(); print(flush=True); input() if pid else os.read(0, 1)"


@contextmanager
def running(*command: object) -> Iterator[int]:
    """A program that prints a line and waits for the end of its input."""
    with subprocess.Popen(
        [*map(str, command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin and process.stdout
        try:
            process.stdout.readline()
            yield process.pid
        finally:
            process.stdin.close()


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_family_is_found_by_its_script_module_or_program(tmp_path: Path) -> None:
    script = written(tmp_path / f"some shop {os.getpid()}.py", FORKS)
    through_shell = ["sh", "-c", 'exec "$@"', "sh", sys.executable, script]
    for command in ([sys.executable, script], [sys.executable, "-X", "dev", "-u", script], through_shell):
        with running(*command) as pid:
            assert find(script.stem) == find(script.name) == pid


def test_a_template_is_found_by_its_role_and_by_the_program_that_made_it(tmp_path: Path) -> None:
    script = written(tmp_path / f"warm_shop_{os.getpid()}.py", TEMPLATE)
    with running(sys.executable, script) as pid:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        templates = [int(each) for each in children if procfs.stat(int(each)).comm == "clonal-template"]
        assert find(script.stem) == pid
        with pytest.MonkeyPatch.context() as patch:  # templates of other tests
            patch.setattr("clonal.observe.named.processes", lambda: map(procfs.stat, [pid, *templates]))
            assert [find("template")] == [find("clonal-template")] == templates


def test_two_of_a_name_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = written(tmp_path / f"twice_{os.getpid()}.py", FORKS)
    with running(sys.executable, script) as first, running(sys.executable, script, "--port", "2") as second:
        with pytest.raises(NotNamed) as refused:
            find(script.stem)
        assert refused.value.pids == sorted([first, second])
        for verb in (["map"], ["top", "--once"], ["doctor"]):
            assert main([*verb, script.stem]) == 2
            line = capsys.readouterr().err
            assert line.startswith(f"clonal: 2 processes are called '{script.stem}'; give the PID of one: ")
            assert f"{second} (" in line and line.count("\n") == 1


def test_nobody_of_that_name_is_one_line_and_neither_are_we_nor_our_parents(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for verb in (["map"], ["top", "--once"], ["doctor"]):
        assert main([*verb, "no such name"]) == 2
        assert "no process is called 'no such name'" in capsys.readouterr().err
    ours = procfs.stat(os.getpid())
    assert ours.comm in names(ours, ["python"])
    with pytest.raises(NotNamed):
        find(f"{os.getpid()}-{ours.comm}")


@pytest.mark.parametrize(
    ("line", "called"),
    [
        (["/usr/bin/python3", "/srv/app.py", "x.py"], {"python3", "app", "app.py"}),
        (["python", "-W", "error", "-m", "shop.web", "x.py"], {"python", "shop.web"}),
        (["python", "-c", "app.py"], {"python"}),
        (["vim", "app.py"], {"vim"}),
        (["sh", "./start.sh"], {"sh", "start.sh"}),
        (["postgres: writer "], {"postgres: writer "}),
        ([], set()),
    ],
)
def test_what_a_command_line_is_called(line: Sequence[str], called: set[str]) -> None:
    stat = procfs.stat(os.getpid())._replace(comm="own")
    assert names(stat, line) == called | ({"own"} if line else set())
