"""`clonal map`: its tables, JSON and Prometheus text agree with each other, and a mistake is one line."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import clonal
from clonal.observe.pages import frames_shown
from clonal.observe.table import Part, tables
from clonal.report.table import table
from tests.integration.sharing_fixtures import TREE, running
from tests.support import IS_ROOT, run_script

CLONAL = [sys.executable, "-m", "clonal.cli.main", "map"]
PAGE = os.sysconf("SC_PAGE_SIZE")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CLONAL, *map(str, arguments)], capture_output=True, text=True, timeout=60)


def refused(*arguments: object) -> str:
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (2, ""), result
    assert result.stderr.startswith("clonal: ") and result.stderr.count("\n") == 1
    return result.stderr


def drawn(part: Part, width: int) -> str:
    out = Console(width=width)
    with out.capture() as shown:
        out.print(table(part.columns, part.rows))
    return shown.get()


def test_the_tables_name_every_member_and_fit_eighty_and_sixty_columns(tmp_path: Path) -> None:
    with running(TREE, str(tmp_path / "pid")) as facts:
        family = clonal.sharing(facts["pid"])
        text = run(facts["pid"]).stdout
    for width in (80, 60):
        for part in tables(family, width):
            shown = drawn(part, width)
            assert "…" not in shown  # nothing is cut
            assert shown == drawn(part, 300)
    copied = next(part for part in tables(family, 30) if part.title.startswith("Copied"))
    assert list(copied.columns) == ["pid", "buffers", "the rest"]
    wide, narrow = (next(tables(family, width)) for width in (200, 80))
    assert len(wide.columns) > len(narrow.columns)
    for pid in (facts["pid"], facts["grandchild"], *facts["children"]):
        assert re.search(rf"^ *└?{pid} python", text, re.MULTILINE), text
    assert "large buffers" in text and "Copied since the fork, by kind" in text


def test_json_and_prometheus_have_the_same_figures(tmp_path: Path) -> None:
    with running(TREE, str(tmp_path / "pid")) as facts:
        made = json.loads(run(facts["pid"], "--json").stdout)
        text = run(facts["pid"], "--prometheus").stdout
    child = next(each for each in made["members"] if each["pid"] == facts["children"][2])
    assert child["ppid"] == facts["pid"] and child["forked"] and child["role"] == "process"
    buffers = child["kinds"]["large buffers"]
    assert 300 * PAGE <= buffers["copied"] <= 330 * PAGE
    sample = (
        rf'^clonal_memory_copied_bytes{{pid="{child["pid"]}",ppid="{facts["pid"]}",name="python[^"]*",'
        rf'role="process",kind="large buffers"}} (\d+)$'
    )
    found = re.search(sample, text, re.MULTILINE)
    assert found and abs(int(found[1]) - buffers["copied"]) <= 10 * PAGE
    for name in set(re.findall(r"^(\w+)[{ ]", text, re.MULTILINE)):
        assert text.count(f"# HELP {name} ") == text.count(f"# TYPE {name} gauge\n") == 1
    if frames_shown():
        assert made["method"] == "pfn" and made["lost"] == []
        assert len(made["matrix"]) == len(made["members"]) == 5
        assert sum(each["bytes"] for each in made["sharers"]) == sum(made["distinct"].values())


def test_several_processes_are_one_family(tmp_path: Path) -> None:
    with running(TREE, str(tmp_path / "pid")) as facts:
        first, second, _ = facts["children"]
        made = json.loads(run(second, first, "--json").stdout)
    assert [each["pid"] for each in made["members"]] == [second, first, facts["grandchild"]]


def test_a_program_that_is_not_python_is_mapped_too() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as cat:
        made = json.loads(run(cat.pid, "--json").stdout)
        assert cat.stdin is not None
        cat.stdin.close()
    (member,) = made["members"]
    assert member["objects_by"] == "no Python" and "python objects" not in member["kinds"]
    assert member["kinds"]["code"]["present"] > 0 and member["kinds"]["stack"]["present"] > 0


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """forking_server.c, compiled, by a name that no other process has."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    program = tmp_path / f"server{os.getpid()}"
    subprocess.run([compiler, "-O1", "-o", program, Path(__file__).with_name("forking_server.c")], check=True)
    return program


@pytest.mark.newest
def test_a_family_of_c_programs_has_its_kinds_and_copies(server: Path) -> None:
    with subprocess.Popen([server], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout
        try:
            assert [process.stdout.readline() for _ in range(2)] == [b"ready\n"] * 2
            family = json.loads(run(server.name, "--json").stdout)
            table = run(process.pid).stdout
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    parent, *children = family["members"]
    assert parent["pid"] == process.pid and len(children) == 2
    own, megabyte = 40 << 10, 1 << 20
    for child in children:
        for kind, copied in (("large buffers", 1), ("library data", 2), ("malloc heap", 1)):
            assert abs(child["kinds"][kind]["copied"] - copied * megabyte) <= own, (
                kind,
                child["kinds"][kind],
            )
        assert child["kinds"]["shared memory"]["copied"] == 0  # written, and shared still
        assert child["kinds"]["shared memory"]["present"] == 2 * megabyte
        assert child["objects_by"] == "no Python"
    assert parent["kinds"]["shared memory"]["present"] == 4 * megabyte
    assert f"└{children[0]['pid']} {server.name}" in table and "python" not in table


@pytest.mark.newest
def test_a_process_may_be_called_anything() -> None:
    """Not markup, no second line, nothing that a terminal would obey."""
    source = """
import ctypes
call = ctypes.CDLL(None).prctl  # 15: PR_SET_NAME
call(15, b"[/x]", 0, 0, 0)
children = [fork(lambda: call(15, b"\\x1b]0;\\n\\xff[b]", 0, 0, 0))]
tell(children=children)
"""
    with running(source) as facts:
        table, top = run(facts["pid"]), run_top(facts["pid"])
        made, text = (run(facts["pid"], how) for how in ("--json", "--prometheus"))
    for told in (table, top, made, text):
        assert (told.returncode, told.stderr) == (0, ""), told
        assert all(each.isprintable() or each == "\n" for each in told.stdout)
    for told in (table, top):
        assert re.search(rf"^{facts['pid']} \[/x\] ", told.stdout, re.MULTILINE), told
        assert re.search(rf"^└{facts['children'][0]} \?\]0;\?\?\[b\] .*\d", told.stdout, re.MULTILINE), told


def run_top(pid: int) -> subprocess.CompletedProcess[str]:
    command = [*CLONAL[:-1], "top", str(pid), "--once", "--interval", "100ms"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_no_such_process_and_no_number_are_told() -> None:
    assert "process 999999999: there is no such process" in refused(999999999)
    assert "no process is called 'self'" in refused("self")
    assert "'-1'" in refused("--", "-1")


def test_a_zombie_is_told() -> None:
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        assert f"process {pid}: true is a zombie" in refused(pid)
    finally:
        os.waitpid(pid, 0)


@pytest.mark.skipif(not Path("/proc/2/comm").exists(), reason="no kernel threads in this pid namespace")
def test_a_kernel_thread_is_told() -> None:
    assert "kthreadd is a kernel thread: it has no memory" in refused(2)


@pytest.mark.skipif(not IS_ROOT, reason="only root's processes are closed to nobody")
def test_another_s_process_is_told() -> None:
    result = run_script(
        f"from clonal.cli.main import main; raise SystemExit(main(['map', '{os.getpid()}']))",
        user="nobody",
        check=False,
    )
    assert result.returncode == 2 and result.stdout == "" and result.stderr.count("\n") == 1
    assert re.fullmatch(
        rf"clonal: process {os.getpid()}: may not be inspected by user \d+: root may \(sudo\)\n",
        result.stderr,
    )


def test_without_the_right_to_read_memory_objects_are_told_by_size(tmp_path: Path) -> None:
    source = "keep = [[number] for number in range(100_000)]\ntell()\n"
    with running(source) as facts:
        exact = json.loads(run(facts["pid"], "--json").stdout)
        environment = os.environ | {"CLONAL_DISABLE": "read_memory"}
        result = subprocess.run(
            [*CLONAL, str(facts["pid"]), "--json"], capture_output=True, text=True, env=environment
        )
    rough = json.loads(result.stdout)
    (member,) = rough["members"]
    assert member["objects_by"] == "size and alignment" and "ptrace_scope" in rough["lost"][-1]
    by_size, by_header = (each["members"][0]["kinds"]["python objects"]["present"] for each in (rough, exact))
    assert by_header > 8 << 20
    assert by_size > 0.3 * by_header  # arenas in one mapping with something else are not found
