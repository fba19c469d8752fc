"""`clonal top`: one sample as a table or JSON, the live view in a terminal, and a mistake is one line."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.sharing_fixtures import TREE, running

CLONAL = [sys.executable, "-m", "clonal.cli.main", "top"]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*CLONAL, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


def refused(*arguments: object) -> str:
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (2, ""), result
    assert result.stderr.startswith("clonal: ") and result.stderr.count("\n") == 1
    return result.stderr


def test_one_sample_is_a_table_of_all_members(tmp_path: Path) -> None:
    with running(TREE, str(tmp_path / "pid")) as facts:
        result = run(facts["pid"], "--once", "--interval", "100ms")
    assert (result.returncode, result.stderr) == (0, "")
    assert f"process {facts['pid']}" in result.stdout and "and 4 more" in result.stdout
    for pid in (facts["pid"], facts["grandchild"], *facts["children"]):
        assert re.search(rf"^ *└?{pid} python", result.stdout, re.MULTILINE), result.stdout
    (total,) = re.findall(r"^all +(.*)$", result.stdout, re.MULTILINE)
    assert len(total.split()) == 8
    assert "commit" in result.stdout and "available" in result.stdout


def test_json_is_a_sample_a_line(tmp_path: Path) -> None:
    with running(TREE, str(tmp_path / "pid")) as facts:
        command = [*CLONAL, str(facts["pid"]), "--json", "--interval", "100ms"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            samples = [json.loads(process.stdout.readline()) for _ in range(2)]
            process.terminate()
    for sample in samples:
        assert sample["members"][0]["pid"] == facts["pid"]
        assert {each["role"] for each in sample["members"]} == {"process"}
        assert all(each["rss"] == each["shared"] + each["private"] for each in sample["members"])
        assert all(each["copies"] == 0 == each["major"] for each in sample["members"])
        assert sample["strain"]["commit_left"] and sample["ended"] == []
    assert samples[1]["time"] > samples[0]["time"]


def test_all_families_are_shown_without_a_pid(tmp_path: Path) -> None:
    with running(TREE, str(tmp_path / "pid")) as facts:
        sample = json.loads(run("--once", "--json", "--interval", "100ms").stdout)
    rows = {each["pid"]: each for each in sample["members"]}
    assert rows[facts["grandchild"]]["root"] == facts["pid"] and rows[facts["grandchild"]]["depth"] == 2


@pytest.mark.newest
@pytest.mark.parametrize(("how", "status"), [(b"q", 0), (b"\x03", 0), (signal.SIGTERM, 143)])
def test_the_live_view_runs_in_a_terminal_and_ends_by_key_and_by_signal(
    tmp_path: Path, how: bytes | signal.Signals, status: int
) -> None:
    with running(TREE, str(tmp_path / "pid")) as facts, terminal_of(80, 24) as (ours, theirs):
        environment = {**os.environ, "TERM": "xterm-256color"}
        command = [*CLONAL, str(facts["pid"])]
        with subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
        ) as process:
            shown = read_until(ours, str(facts["grandchild"]).encode())
            if isinstance(how, bytes):
                os.write(ours, how)
            else:
                process.send_signal(how)
            shown += read_until(ours, b"\x1b[?1049l")  # the terminal's own screen is back
            assert process.wait(10) == status
    assert b"Traceback" not in shown


@pytest.mark.newest
@pytest.mark.parametrize("elsewhere", ["stdin", "stdout", "stderr"])
def test_a_terminal_is_needed_on_all_three_ends(elsewhere: str) -> None:
    with terminal_of(80, 24) as (_, theirs):
        ends: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
        ends[elsewhere] = subprocess.DEVNULL
        assert subprocess.run([*CLONAL, str(os.getpid())], timeout=20, **ends).returncode == 2


@contextmanager
def terminal_of(columns: int, lines: int) -> Iterator[tuple[int, int]]:
    """Our end of a terminal, and its own."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    try:
        yield ours, theirs
    finally:
        os.close(theirs)
        os.close(ours)


def read_until(terminal: int, wanted: bytes) -> bytes:
    """What is drawn until this is."""
    shown, end = b"", time.monotonic() + 20
    while wanted not in shown:
        assert select.select([terminal], [], [], max(0.0, end - time.monotonic()))[0], shown[-2000:]
        shown += os.read(terminal, 1 << 16)
    return shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["x"], "no process is called 'x'"),
        (["0"], "there is no such process"),
        (["999999999", "--once"], "there is no such process"),
        (["1", "2"], "unrecognized arguments: 2"),
        (["--once", "--interval", "soon"], "'soon' is no time"),
        (["--once", "--interval", "1ms"], "between 100ms and 1h"),
        ([], "needs a terminal"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], words: str) -> None:
    assert words in refused(*arguments)


def test_a_zombie_is_refused() -> None:
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", ""], os.environ)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        assert "is a zombie" in refused(pid, "--once")
    finally:
        os.waitpid(pid, 0)
