"""`clonal plan` as its user meets it: tables, JSON, sweeps, costs, processes, a line for each mistake."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import clonal
from clonal.cli.main import main
from clonal.kernel import memory, procfs
from clonal.plan.costs import DEFAULT, NAMES
from clonal.plan.store import here
from tests.support import IS_ROOT, run_script

pytestmark = pytest.mark.newest

CLONAL = [sys.executable, "-m", "clonal.cli.main", "plan"]
SERVER = ["--heap", "500M", "--code", "200M", "--clones", "1000", "--written", "5%"]
MACHINE = ["--ram", "256G", "--cores", "32"]
MB = 1 << 20


@pytest.fixture(autouse=True)
def no_costs_but_the_built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where costs would be stored."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "clonal" / "costs.json"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CLONAL, *arguments], capture_output=True, text=True, timeout=100)


def said(*arguments: str) -> str:
    result = run(*arguments)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def answer(*arguments: str) -> Any:
    return json.loads(said(*arguments, "--json"))


def test_a_plan_is_printed() -> None:
    text = said(*SERVER, *MACHINE)
    for strategy in ("eager", "cow", "vfork", "shared_tables", "async_copy", "image", "hardware"):
        assert len(re.findall(rf"^{strategy} ", text, re.MULTILINE)) == 2
    assert "6,400,000 pages copied (24.4 GiB), page by page for all of them" in text
    assert "Costs: built-in default" in text
    assert "freeze the heap into an image: one fork " in text
    assert "…" not in text, "a table is cut off"


def test_the_json_says_how_many_pages_are_copied() -> None:
    made = answer(*SERVER, *MACHINE)
    assert made["copied_pages"] == 6_400_000
    assert made["page_exact_clones"] == 1000
    assert made["page_exact_share"] == 1
    assert made["host"] | {"ram": 256 << 30, "cores": 32, "used": 0} == made["host"]
    assert made["strategies"]["cow"]["private_bytes"] >= 6400 * 4096


def test_without_a_machine_it_is_this_one() -> None:
    host = answer("--heap", "1M")["host"]
    assert host["cores"] == len(os.sched_getaffinity(0))
    assert host["ram"] > host["used"] > 0


def test_a_sweep_has_a_row_for_each_value() -> None:
    text = said(*SERVER, *MACHINE, "--sweep", "written=1%,5%,20%")
    assert re.findall(r"^(\d+)% ", text, re.MULTILINE) == ["1", "5", "20"]
    assert "…" not in text


def test_two_sweeps_make_all_pairs() -> None:
    made = answer("--sweep", "heap=64M,128M", "--sweep", "clones=1,2", *MACHINE)
    assert [(each["heap"], each["clones"]) for each in made] == [
        ("64M", "1"), ("64M", "2"), ("128M", "1"), ("128M", "2"),
    ]  # fmt: skip
    assert [each["copied_pages"] for each in made] == [819, 1638, 1638, 3276]


def test_a_server_of_a_terabyte_is_planned_and_said_not_to_be_simulated_in_whole() -> None:
    text = said("--heap", "1T", "--ram", "2T", "--cores", "64")
    assert "is not simulated in whole: 1.56 % of it was" in text
    assert re.search(r"^cow +18\.\d s", text, re.MULTILINE)


def test_a_server_without_a_heap_forks_in_no_time() -> None:
    assert answer("--code", "200M", *MACHINE)["strategies"]["cow"]["fork_seconds"] < 0.001


def test_clones_that_cannot_be_replaced_so_fast_are_told_of() -> None:
    text = said("--heap", "500M", "--clones", "100", "--lifetime", "100ms", *MACHINE)
    assert "os.fork cannot keep that many alive" in text


def test_costs_are_listed() -> None:
    lines = said("--cost", "list").splitlines()
    assert lines[0].startswith("costs: built-in default")
    assert [line.split()[0] for line in lines[1:]] == list(NAMES)


def test_a_cost_that_is_set_changes_the_price_and_is_named() -> None:
    usual, dearer = (answer("--heap", "64M", *MACHINE, *more) for more in ([], ["--cost", "pte=132"]))
    forks = [each["strategies"]["cow"]["fork_seconds"] for each in (usual, dearer)]
    assert forks[1] - forks[0] == pytest.approx(66e-9 * (64 * 256 + 1), rel=0.01)
    assert dearer["costs"]["origin"]["notes"] == ["as given: pte=132"]


def stored(path: Path, **origin: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    machine, kernel = here()
    mark = {"kind": "calibrated", "machine": machine, "kernel": kernel, "date": "2026-01-01", "notes": []}
    costs = DEFAULT.to_json() | {"pte": 7.0, "origin": mark | origin}
    path.write_text(json.dumps(costs))


def test_the_costs_of_this_machine_are_used(no_costs_but_the_built_in: Path) -> None:
    stored(no_costs_but_the_built_in)
    made = answer("--heap", "1M", *MACHINE)
    assert made["costs"]["pte"] == 7
    assert made["costs_from"].startswith("costs calibrated on ")


@pytest.mark.parametrize("other", [{"machine": "64 × Another"}, {"kernel": "5.10.0"}])
def test_the_costs_of_another_machine_are_not(no_costs_but_the_built_in: Path, other: dict[str, str]) -> None:
    stored(no_costs_but_the_built_in, **other)
    made = answer("--heap", "1M", *MACHINE)
    assert made["costs"]["pte"] == DEFAULT.pte
    assert made["costs_from"].startswith("costs: built-in default")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 99}', '{"schema": 1}'])
def test_a_damaged_file_of_costs_is_named_with_what_to_do(no_costs_but_the_built_in: Path, text: str) -> None:
    no_costs_but_the_built_in.parent.mkdir()
    no_costs_but_the_built_in.write_text(text)
    result = run("--heap", "1M", *MACHINE)
    assert result.returncode == 1
    assert result.stderr.startswith(f"clonal: {no_costs_but_the_built_in}: ")
    assert "run clonal plan --calibrate" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.soak
def test_costs_are_measured_kept_and_used(no_costs_but_the_built_in: Path) -> None:
    text = said("--calibrate")
    assert f"kept in {no_costs_but_the_built_in}" in text
    assert platform.release() in text
    assert answer("--heap", "1M", *MACHINE)["costs_from"].startswith("costs calibrated on ")


def test_costs_that_cannot_be_kept_are_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from clonal.plan import store

    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/nowhere")
    with pytest.raises(
        clonal.Error, match=r"^cannot store the costs in /dev/null/nowhere/clonal/costs\.json: "
    ):
        store.save(DEFAULT)


WARM = f"""
import sys
kept = bytearray(b"1" * (64 * {MB}))
print("warm", flush=True)
sys.stdin.read()
"""


def test_a_running_process_is_measured() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WARM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        server.stdout.readline()
        made = answer("--pid", str(server.pid), "--written", "10%")
        anonymous = sum(each.sizes.get("Anonymous", 0) for each in procfs.smaps(server.pid))
        server.communicate("")
    found = made["server"]
    assert str(server.pid) in found["name"]
    assert 64 * MB < found["heap"] <= anonymous
    assert found["image"] == 0
    assert made["copied_pages"] == pytest.approx(found["heap"] // 4096 / 10, abs=1)


def test_what_is_measured_is_not_counted_as_used_by_others_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = bytearray(b"1" * (64 * MB))
    now = memory.meminfo()
    monkeypatch.setattr(memory, "meminfo", lambda: now)  # what runs beside this changes it meanwhile
    used = {}
    for server in (["--pid", str(os.getpid())], ["--heap", "1M"]):
        assert main(["plan", *server, "--json"]) == 0
        used[server[0]] = json.loads(capsys.readouterr().out)["host"]["used"]
    assert used["--heap"] == now["MemTotal"] - now["MemAvailable"] + now["SwapTotal"] - now["SwapFree"]
    assert used["--heap"] - used["--pid"] > len(kept)


def test_a_template_is_measured_with_its_image(user: str | None) -> None:
    """As ourselves and as an ordinary user, whose own template it is."""
    run_script(
        """
        import json, subprocess, sys
        import clonal

        if __name__ == "__main__":
            with clonal.Template(preload=["json", "decimal"]) as template:
                plan = ["-m", "clonal.cli.main", "plan", "--json", "--template", str(template.pid)]
                result = subprocess.run([sys.executable, *plan], capture_output=True, text=True)
            assert result.returncode == 0, result.stderr
            made = json.loads(result.stdout)
            assert made["server"]["image"] > 1 << 20, made["server"]
            assert made["strategies"]["image"]["fork_seconds"] < made["strategies"]["cow"]["fork_seconds"]
        """,
        user=user,
        env={"XDG_CACHE_HOME": ""},
    )


def test_a_process_without_an_image_is_no_template() -> None:
    refused("--template", str(os.getpid()), says="has no image; give --pid")


@pytest.mark.skipif(not IS_ROOT, reason="needs a process of another user")
def test_a_process_of_somebody_else_is_refused() -> None:
    run_script(
        f"""
        import subprocess, sys

        command = [sys.executable, "-m", "clonal.cli.main", "plan", "--pid", "{os.getpid()}"]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 2, result
        assert "is not ours to look at: run this as its user, or as root" in result.stderr
        assert result.stderr.count(chr(10)) == 1
        """,
        user="nobody",
        env={"XDG_CACHE_HOME": ""},
    )


@pytest.mark.skipif(not Path("/proc/2/comm").exists(), reason="kernel threads are in another pid namespace")
def test_a_kernel_thread_has_nothing_to_clone() -> None:
    refused("--pid", "2", says="has no memory")


def refused(*arguments: str, says: str) -> None:
    """In one line, as a wrong command line."""
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("clonal: ")
    assert result.stderr.count("\n") == 1
    assert says in result.stderr


MISTAKES = [
    ([], "say what to plan for: --heap SIZE or --pid PID; for example clonal plan --heap 500M"),
    (["--clones", "5"], "say what to plan for"),
    (["--pid", "999999999"], "--pid: process 999999999 is not running"),
    (["--pid", "-1"], "processes have numbers from 1"),
    (["--pid", "me"], "--pid: 'me' is no whole number"),
    (["--pid", "1", "--heap", "1M"], "--pid measures a process: leave out --heap"),
    (["--pid", "1", "--sweep", "heap=1M"], "--pid measures a process: leave out --heap"),
    (["--pid", "1", "--template", "1"], "not both"),
    (["--heap", "-5"], "--heap: '-5' is no size; write sizes as 64M"),
    (["--heap", ""], "--heap: '' is no size"),
    (["--heap", "0"], "there is nothing to clone"),
    (["--heap", "99T"], "--heap 99T: it must be less than 64 TiB"),
    (["--heap", "9" * 400], "is more than any machine has"),
    (
        ["--heap", "1G", "--limit", "100M"],
        "there is room for 100 MiB (memory cgroup limit): give more (--limit)",
    ),
    (["--heap", "1G", "--ram", "512M"], "there is room for 512 MiB (RAM and swap): give more (--ram"),
    (["--heap", "1M", "--vmas", "0"], "--vmas 0: it must be at least 2"),
    (["--heap", "1M", "--libraries", "-1"], "--libraries -1: it must be from 0"),
    (["--heap", "1M", "--written", "101%"], "--written: '101%' is no share"),
    (["--heap", "1M", "--clones", "0"], "--clones 0: it must be from 1"),
    (["--heap", "1M", "--clones", "1.5"], "--clones: '1.5' is no whole number"),
    (["--heap", "1M", "--rate", "0"], "--rate 0: it must be more than 0"),
    (["--heap", "1M", "--lifetime", "1y"], "--lifetime: '1y' is no time; write it as 200ms"),
    (["--heap", "1M", "--starts", "nan"], "--starts nan: it must be more than 0"),
    (["--heap", "1M", "--cores", "0"], "--cores 0: it must be from 1"),
    (["--heap", "1M", "--cores", "2", "--nodes", "9"], "--nodes 9: it must be from 1 to the 2 cores"),
    (["--heap", "1M", "--ram", "0"], "--ram 0: it must be at least one page"),
    (["--heap", "1M", "--ram", "9999T"], "--ram 9999T: it must be less than"),
    (["--heap", "1M", "--ram", "1G", "--used", "2G"], "--used 2G: it must be less than RAM and swap (1 GiB)"),
    (["--heap", "1M", "--overcommit", "3"], "--overcommit 3: it must be 0 (guess), 1 (always) or 2 (never)"),
    (["--heap", "1M", "--oom-score-adj", "2000"], "--oom-score-adj 2000: it must be from -1000 to 1000"),
    (["--heap", "1M", "--cost", "coppy=1"], "--cost: there is no cost 'coppy'; there are fork_base, "),
    (["--heap", "1M", "--cost", "copy"], "write NAME=NS, such as copy=2000"),
    (["--heap", "1M", "--cost", "copy=-1"], "--cost: the cost copy is -1.0, but must be a number, 0 or more"),
    (["--heap", "1M", "--sweep", "thp=1"], "--sweep: there is no 'thp' to vary; there are heap, "),
    (["--heap", "1M", "--sweep", "clones="], "write the values of clones as clones=A,B,C"),
    (["--heap", "1M", "--sweep", "clones=1,0"], "--clones 0: it must be from 1"),
    (["--heap", "1M", "--sweep", "clones=1" + ",1" * 400], "401 plans are too many, at most 400"),
    (["--heap", "1M", "--html", "/nowhere/x.html"], "there is no folder /nowhere to write to"),
    (["--heap", "1M", "--html", "/proc/x.html"], "/proc/x.html: "),
    (["--heap", "1M", "--plot", "x.pdf"], "ends in .png"),
    (["--heap"], "expected one argument"),
    (["--hepa", "1M"], "unrecognized arguments: --hepa 1M"),
]


@pytest.mark.parametrize(("arguments", "says"), MISTAKES, ids=[" ".join(words)[:60] for words, _ in MISTAKES])
def test_a_mistake_is_answered_in_one_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"clonal: [^\n]+\n", err)
    assert says in err
