"""`clonal run` on real scripts: what they see, how they end, what is said of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

CLONAL = [sys.executable, "-m", "clonal.cli.main"]


def run(
    folder: Path, *arguments: str, stdin: str | None = None, status: int | None = None
) -> subprocess.CompletedProcess[str]:
    """`clonal run` in a folder; with `status` that must be its exit status."""
    given = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    result: subprocess.CompletedProcess[str] = subprocess.run(
        [*CLONAL, "run", *arguments],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        capture_output=True,
        text=True,
        timeout=120,
        **given,
    )
    if status is not None:
        assert result.returncode == status, result.stderr
    return result


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return name


def test_a_script_sees_what_python_would_show_it(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path, "deep/neighbour.py", "VALUE = 42\n")
    script = write(
        tmp_path,
        "deep/script.py",
        "import os, pickle, sys, neighbour\n"
        "class Thing: pass\n"
        "assert isinstance(pickle.loads(pickle.dumps(Thing())), Thing)\n"
        "assert sys.modules['__main__'].Thing is Thing\n"
        "print(__name__, __file__, sys.argv, os.getcwd(), os.path.basename(sys.path[0]), neighbour.VALUE)\n",
    )
    by_clonal = run(tmp_path, script, "-n", "x y", status=0)
    by_python = subprocess.run(
        [sys.executable, script, "-n", "x y"], cwd=tmp_path, capture_output=True, text=True
    )
    assert by_clonal.stdout == by_python.stdout
    assert "exited 0" in by_clonal.stderr


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ("sys.exit()", 0),
        ("sys.exit(7)", 7),
        ("sys.exit('no luck')", 1),
        ("os._exit(9)", 9),
        ("os.kill(os.getpid(), 15)", 128 + 15),
        ("1 / 0", 1),
        ("raise KeyboardInterrupt", 130),
    ],
)
def test_one_run_ends_with_the_status_of_its_script(tmp_path: Path, ending: str, status: int) -> None:
    script = write(tmp_path, "script.py", f"import os, sys\nprint('out', flush=True)\n{ending}\n")
    assert run(tmp_path, script, status=status).stdout == "out\n"


def test_several_runs_fail_if_one_does(tmp_path: Path) -> None:
    text = "import os, sys\nif os.environ['CLONAL_RUN'] == '2': os.kill(os.getpid(), 11)\n"
    result = run(tmp_path, "-n", "5", "-j", "3", write(tmp_path, "script.py", text), status=1)
    assert "5 runs of script.py, 3 at a time: 1 failed (SIGSEGV ×1)" in result.stderr


def test_each_run_is_a_fresh_process_with_its_own_number(tmp_path: Path) -> None:
    text = "import os, builtins\nassert not hasattr(builtins, 'been_here')\nbuiltins.been_here = 1\n"
    text += "os.write(1, f\"{os.environ['CLONAL_RUN']} {os.getpid()}\\n\".encode())\n"
    result = run(tmp_path, "-n", "12", write(tmp_path, "script.py", text), status=0)
    numbers, pids = zip(*(line.split() for line in result.stdout.splitlines()), strict=True)
    assert sorted(map(int, numbers)) == list(range(12))
    assert len(set(pids)) == 12


def test_a_traceback_is_what_python_prints(tmp_path: Path) -> None:
    script = write(tmp_path, "script.py", "def inner():\n    return {}['key']\n\ninner()\n")
    ours = run(tmp_path, script, status=1).stderr
    python = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True).stderr
    assert ours.startswith(python)


def test_a_syntax_error_is_shown_as_pythons(tmp_path: Path) -> None:
    result = run(tmp_path, write(tmp_path, "script.py", "a = (1\n"), status=1)
    assert result.stderr.startswith(f'  File "{tmp_path}/script.py", line 1\n')
    assert "SyntaxError: '(' was never closed" in result.stderr
    assert "clonal/" not in result.stderr


def test_preload_and_setup_are_done_once_and_seen_by_all(tmp_path: Path) -> None:
    write(tmp_path, "slow.py", "import os\nWHO = os.getpid()\nDATA = []\ndef fill(): DATA.append(WHO)\n")
    text = "import slow, os\nassert slow.DATA == [slow.WHO] and slow.WHO != os.getpid()\nprint(slow.WHO)\n"
    script = write(tmp_path, "script.py", text)
    for options in (["--preload", "slow,json", "--setup", "slow:fill"], ["--setup", "slow.py:fill"]):
        result = run(tmp_path, *options, "-n", "3", script, status=0)
        assert len(set(result.stdout.split())) == 1


@pytest.mark.parametrize("setup", ["broken:warm", "broken.py:warm"])
def test_a_setup_that_raises_shows_the_users_frames_alone(tmp_path: Path, setup: str) -> None:
    write(tmp_path, "broken.py", "def warm():\n    raise LookupError('no data')\n")
    result = run(tmp_path, "--setup", setup, write(tmp_path, "script.py", ""), status=1)
    assert "LookupError: no data" in result.stderr
    assert "in warm" in result.stderr
    assert "/clonal/" not in result.stderr
    assert "importlib" not in result.stderr


def test_a_preload_that_raises_shows_the_users_frames_alone(tmp_path: Path) -> None:
    write(tmp_path, "broken.py", "import not_there_at_all\n")
    result = run(tmp_path, "--preload", "broken", write(tmp_path, "script.py", ""), status=1)
    assert "ModuleNotFoundError: No module named 'not_there_at_all'" in result.stderr
    assert "/clonal/" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "which script?"),
        (["missing.py"], "no script 'missing.py'"),
        (["."], "without a __main__.py"),
        (["/dev/null"], "not a regular file"),
        (["-n", "0", "script.py"], "'0' is not a whole number from 1 up"),
        (["-n", "many", "script.py"], "'many' is not a whole number from 1 up"),
        (["-j", "-2", "script.py"], "'-2' is not a whole number from 1 up"),
        (["-n"], "expected one argument"),
        (["--preload", "no_such_module", "script.py"], "no module 'no_such_module' to preload"),
        (["--preload", "json.no_such", "script.py"], "no module 'json.no_such' to preload"),
        (["--setup", "script", "script.py"], "not of the form module:function"),
        (["--setup", "no_such_module:warm", "script.py"], "no module 'no_such_module' for --setup"),
        (["--setup", "missing.py:warm", "script.py"], "no file 'missing.py' for --setup"),
        (["--setup", "script.py:absent", "script.py"], "defines no 'absent'"),
    ],
)
def test_a_mistake_gives_one_line_that_says_what_to_do(
    tmp_path: Path, arguments: list[str], says: str
) -> None:
    write(tmp_path, "script.py", "print('must not run')\n")
    result = run(tmp_path, *arguments, status=2)
    assert says in result.stderr
    assert result.stderr.startswith("clonal: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_a_script_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read every file")
    script = write(tmp_path, "script.py", "")
    (tmp_path / script).chmod(0)
    assert "may not be read by this user" in run(tmp_path, script, status=2).stderr


def test_a_folder_with_a_main_is_a_script(tmp_path: Path) -> None:
    (tmp_path / "tool").mkdir()
    write(tmp_path, "tool/__main__.py", "print('from the folder')\n")
    assert run(tmp_path, "tool", status=0).stdout == "from the folder\n"


def test_one_run_reads_standard_input_and_several_read_none(tmp_path: Path) -> None:
    script = write(tmp_path, "script.py", "import sys\nprint(repr(sys.stdin.read()))\n")
    assert run(tmp_path, script, stdin="given\n", status=0).stdout == "'given\\n'\n"
    assert run(tmp_path, "-n", "2", script, stdin="given\n", status=0).stdout == "''\n''\n"


def test_json_is_all_of_standard_output(tmp_path: Path) -> None:
    script = write(tmp_path, "script.py", "print('words')\n")
    result = run(tmp_path, "--json", "-n", "4", script, status=0)
    report = json.loads(result.stdout)
    assert report["exits"] == {"0": 4}
    assert report["runs"] == 4
    assert 0 < report["start_s"]["p50"] <= report["finish_s"]["p50"] <= report["finish_s"]["p99"]
    assert report["private_measured"] == 4
    assert 0 < report["private_bytes_median"] < 50e6
    assert result.stderr.count("words") == 4


def test_modules_that_clones_import_are_advised(tmp_path: Path) -> None:
    script = write(tmp_path, "script.py", "import decimal, xml.dom.minidom\n")
    told = {
        row["name"] for row in json.loads(run(tmp_path, "--json", script, status=0).stdout)["preload_advice"]
    }
    assert {"decimal", "xml.dom.minidom"} <= told
    preloaded = run(tmp_path, "--preload", "decimal,xml.dom.minidom", script, status=0)
    assert "advice" not in preloaded.stderr


def test_compare_measures_four_strategies_on_the_same_script(tmp_path: Path) -> None:
    write(tmp_path, "heap.py", "DATA = []\ndef fill():\n    DATA.extend(str(i) for i in range(400_000))\n")
    text = "import heap\nif not heap.DATA: heap.fill()\nsum(map(len, heap.DATA))\n"
    script = write(tmp_path, "script.py", text)
    result = run(tmp_path, "--compare", "--json", "-n", "3", "--setup", "heap:fill", script, status=0)
    rows = {row["strategy"]: row for row in json.loads(result.stdout)["rows"]}
    assert list(rows) == ["cold", "forkserver", "os.fork", "clone"]
    for row in rows.values():
        assert row["runs"] == 3
        assert row["failed"] == 0
        assert row["start_s"] < row["finish_s"] or row["strategy"] == "cold"
        assert row["workers_measured"] >= 1
    assert rows["os.fork"]["ram_bytes"] < rows["cold"]["ram_bytes"]
    if sys.version_info >= (3, 12):  # no immortal objects before: reading writes reference counts
        assert rows["clone"]["private_bytes"] < rows["os.fork"]["private_bytes"] / 4


def test_compare_fails_where_the_script_does(tmp_path: Path) -> None:
    script = write(tmp_path, "script.py", "raise SystemExit(3)\n")
    result = run(tmp_path, "--compare", "-n", "1", script, status=1)
    assert "clone: 1 of 1 runs failed" in result.stdout


@pytest.mark.parametrize("options", [["-n", "6", "-j", "3"], ["--compare"]])
def test_ctrl_c_ends_all_and_says_so(tmp_path: Path, options: list[str]) -> None:
    """The fixture that looks for processes left behind sees that all have ended."""
    script = write(tmp_path, "script.py", "import os, signal\nos.write(2, b'.')\nsignal.pause()\n")
    process = subprocess.Popen(
        [*CLONAL, "run", *options, script], cwd=tmp_path, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stderr is not None
    with process.stderr as errors:
        assert errors.read(1) == b"."
        os.killpg(process.pid, signal.SIGINT)
        said = errors.read().decode()
    assert process.wait(30) == 130
    assert said.strip(".").startswith("clonal: interrupted")
    assert "Traceback" not in said


def test_a_reader_that_leaves_is_no_error_of_ours(tmp_path: Path) -> None:
    script = write(tmp_path, "script.py", "pass\n")
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as closed:
        process = subprocess.run(
            [*CLONAL, "run", "--json", script], cwd=tmp_path, stdout=closed, stderr=subprocess.PIPE, text=True
        )
    assert process.returncode == 128 + signal.SIGPIPE
    assert process.stderr == ""
