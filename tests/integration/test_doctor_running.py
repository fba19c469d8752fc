"""`clonal doctor PID`: faults of families that run, and what limits them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import clonal as package
from clonal.cli.main import main
from clonal.kernel.cgroup import Group
from clonal.kernel.memory import ForkCharge
from clonal.observe import reading
from clonal.observe.doctor import examine, inherited, limits, objects
from clonal.observe.doctor.finding import NAMES, Finding, ranked
from clonal.observe.doctor.framework import Framework, before_fork, in_child, recognise
from clonal.observe.doctor.patient import Patient, look
from tests.integration.doctor_machine import roomy as roomy
from tests.integration.sharing_fixtures import PRELUDE, running
from tests.support import run_script

GB = 1 << 30
Captured = pytest.CaptureFixture[str]
needs_immortal = pytest.mark.skipif(sys.version_info < (3, 12), reason="no immortal objects before 3.12")

OBJECTS = """
pairs = [(number, number) for number in range(100_000)]
def work():
    for pair in pairs:
        pass
# HERE
tell(child=fork(work))
"""

# A process and a thread that were started in the same clock tick cannot be told apart.
THREADS = """
import threading, time
stop = threading.Event()
def start_threads():
    threading.Thread(target=stop.wait, daemon=True).start()
# HERE
tick = os.times().elapsed
while os.times().elapsed < tick + 0.03:
    pass
child = fork(int)
# AFTER
tell(child=child)
"""

DESCRIPTORS = """
kept = [os.open("/dev/null", os.O_RDONLY) for _ in range(100)]
def work():
    pass
    # HERE
tell(child=fork(work))
"""


SCORES = """
data = bytearray(64 << 20)
def work():
    pass
    # HERE
tell(child=fork(work))
"""


def doctor(capsys: Captured, *arguments: object, status: int = 0) -> list[dict[str, Any]]:
    assert main(["doctor", "--json", *map(str, arguments)]) == status
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["findings"]
    return found


def copied(child: int, parent: int) -> int:
    [member] = [each for each in package.sharing(parent).members if each.pid == child]
    return member.total.copied or 0


@needs_immortal
def test_objects_that_were_copied_and_what_freezing_saves(capsys: Captured) -> None:
    with running(OBJECTS) as facts:
        first, *rest = doctor(capsys, facts["pid"])
        before = copied(facts["child"], facts["pid"])
    assert first["finding"] == "objects-copied" and not rest
    with running(OBJECTS.replace("# HERE", "\n".join(first["remedy"]["lines"]))) as facts:
        after = copied(facts["child"], facts["pid"])
        assert doctor(capsys, facts["pid"]) == []
    assert abs((before - after) / first["gain_bytes"] - 1) <= 0.25


def test_threads_that_were_there_at_the_fork(capsys: Captured) -> None:
    with running(THREADS.replace("# HERE", "start_threads()")) as facts:
        [found] = doctor(capsys, facts["pid"])
    assert found["finding"] == "threads" and "had 1 thread besides the first" in found["evidence"][0]["text"]
    with running(THREADS.replace("# AFTER", found["remedy"]["lines"][0])) as facts:
        assert doctor(capsys, facts["pid"]) == []


def test_descriptors_that_a_child_keeps(capsys: Captured) -> None:
    with running(DESCRIPTORS) as facts:
        [found] = doctor(capsys, facts["pid"])
    assert found["finding"] == "descriptors" and "100 descriptors" in found["evidence"][0]["text"]
    with running(DESCRIPTORS.replace("# HERE", "\n    ".join(found["remedy"]["lines"]))) as facts:
        assert doctor(capsys, facts["pid"]) == []


def test_a_finding_can_fail_a_run(capsys: Captured) -> None:
    with running(DESCRIPTORS) as facts:
        for wanted, status in (("any", 1), ("descriptors", 1), ("swap", 0)):
            doctor(capsys, facts["pid"], "--fail-on", wanted, status=status)
        assert main(["doctor", str(facts["pid"])]) == 0
        assert "1. descriptors: children keep" in capsys.readouterr().out


def test_a_process_that_forks_nothing_is_healthy(capsys: Captured) -> None:
    with running("tell()") as facts:
        assert main(["doctor", str(facts["pid"]), "--fail-on", "any"]) == 0
        assert "nothing to change" in capsys.readouterr().out


def test_an_ordinary_user_finds_the_same() -> None:
    program = f"""
    import json, subprocess, sys
    family = [sys.executable, "-c", {PRELUDE + DESCRIPTORS!r}]
    process = subprocess.Popen(family, stdin=-1, stdout=-1, text=True)
    pid = json.loads(process.stdout.readline())["pid"]
    command = [sys.executable, "-m", "clonal.cli.main", "doctor", "--fail-on", "descriptors", str(pid)]
    done = subprocess.run(command, capture_output=True, text=True)
    process.communicate()
    assert done.returncode == 1, done
    """
    run_script(program, user="nobody")


# Limits that no test may really meet.


@pytest.fixture
def patient() -> Patient:
    return look(os.getpid())


def test_a_fork_that_would_be_refused() -> None:
    info = {"MemTotal": 8 * GB, "SwapTotal": 0}
    charge = ForkCharge(3 * GB, 2 * GB)
    [found] = limits.refused(1, 2, charge, GB, info)
    assert found.name == "overcommit" and "charged 3 GiB; 1 GiB are left" in found.evidence[1].text
    assert not list(limits.refused(1, 2, charge, 4 * GB, info))
    assert not list(limits.refused(1, 0, charge, 0, info))
    assert list(limits.refused(1, 0, charge, 0, info | {"MemTotal": GB}))
    assert not list(limits.refused(1, 1, ForkCharge(99 * GB, 99 * GB), 0, info))


def test_a_group_that_is_nearly_full() -> None:
    found = limits.near_limit(Group("memory", 2, "/app", "/sys/fs/cgroup/app"), GB, GB - (1 << 20), 3)
    assert found.remedy.lines == (f"echo {GB * 3 // 2} > /sys/fs/cgroup/app/memory.max",)


def test_swapped_memory(patient: Patient) -> None:
    assert not list(objects.swap(patient))
    member = patient.family.members[0]
    swapped = replace(member, total=replace(member.total, swapped=GB))
    [found] = objects.swap(replace(patient, family=replace(patient.family, members=[swapped])))
    assert found.evidence[0].text.startswith("1 GiB")


def test_mappings_near_their_limit(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not list(objects.mappings(patient))
    monkeypatch.setattr(objects, "vm_setting", lambda _name: 40)
    [found] = objects.mappings(patient)
    assert found.remedy.lines == ("sysctl -w vm.max_map_count=160",)


def test_the_parent_is_the_first_to_be_killed_until_its_children_say_otherwise() -> None:
    with running(SCORES) as facts:
        [found] = limits.oom_score(look(facts["pid"]))
    assert found.name == "oom-score"
    with running(SCORES.replace("# HERE", "\n    ".join(found.remedy.lines))) as facts:
        assert not list(limits.oom_score(look(facts["pid"])))


def test_what_is_not_python_is_not_told_to_run_python() -> None:
    shell = ["sh", "-c", "exec 3<&0; (echo up; read x <&3) & wait"]
    with subprocess.Popen(shell, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        patient = look(process.pid)
        assert patient.framework is Framework.NONE and len(patient.forked) == 1
        [found] = limits.oom_score(patient)
        subprocess.run(["sh", "-c", found.remedy.lines[0]], check=True)
        assert not list(limits.oom_score(look(process.pid)))
        process.communicate()


def test_the_longest_run_of_descriptors() -> None:
    assert inherited._longest_run([3, 4, 9, 10, 11, 20]) == (9, 11)
    assert inherited._longest_run([7]) == (7, 7)


def test_what_saves_most_comes_first() -> None:
    remedy = before_fork(Framework.PLAIN, "gc", "gc.freeze()")
    made = [Finding("swap", (), remedy), Finding("exec", (), remedy, 5), Finding("imports", (), remedy, 9)]
    assert [each.name for each in ranked(made)] == ["imports", "exec", "swap"]


@pytest.mark.parametrize(
    ("command", "files", "framework"),
    [
        (["/usr/bin/python3", "/usr/bin/gunicorn", "app:app"], [], Framework.GUNICORN),
        (["python3.13", "-X", "dev", "-u", "-m", "gunicorn", "app:app"], [], Framework.GUNICORN),
        (["gunicorn:", "master", "[app:app]"], [], Framework.GUNICORN),
        (["/x/gunicorn/__main__.py", "app:app"], [], Framework.GUNICORN),
        (["python", "app.py", "--logs", "gunicorn", "/etc/celery"], [], Framework.PLAIN),
        (["celery", "-A", "app", "worker"], [], Framework.CELERY),
        (
            ["python", "train.py"],
            ["/x/torch/utils/data/_utils/worker.py", "/x/multiprocessing/process.py"],
            Framework.LOADER,
        ),
        (["pt_data_worker"], ["/x/_multiprocessing.so"], Framework.LOADER),
        (
            ["python", "pool.py"],
            ["/usr/lib/python3.13/multiprocessing/process.py"],
            Framework.MULTIPROCESSING,
        ),
        (["python", "app.py"], ["/srv/app.py", "/x/celery/app/base.py"], Framework.PLAIN),
        (["python"], [], Framework.PLAIN),
        ([], [], Framework.PLAIN),
    ],
)
def test_a_framework_is_recognised(command: list[str], files: list[str], framework: Framework) -> None:
    assert recognise([["sh", "-c", "x"], command], files) is framework
    remedy = before_fork(framework, "clonal", "clonal.freeze()")
    assert "clonal.freeze()" in " ".join(remedy.lines)
    for each in (
        remedy,
        in_child(framework, "os.closerange(3, 9)", "os"),
        in_child(framework, "start_threads()"),
    ):
        compile("\n".join(each.lines).replace("…", "data"), "remedy", "exec")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give a PID, a recording or a command"),
        (["1", "--", "true"], "give a PID, a recording or a command"),
        (["--"], "give the command after --"),
        (["--", "no-such-command"], "no-such-command: no such command"),
        (["0x1"], "no process is called"),
        (["999999999"], "there is no such process"),
        (["--fail-on", "bugs", "1"], f"there are {', '.join(NAMES)}, any"),
        (["--recording", "/nowhere"], "/nowhere: No such file"),
        (["--recording", __file__], "this is no recording"),
    ],
)
def test_a_mistake_is_said_in_one_line(arguments: list[str], said: str, capsys: Captured) -> None:
    assert main(["doctor", *arguments]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1


def test_a_command_keeps_its_output_apart_from_json(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "clonal.cli.main",
        "doctor",
        "--json",
        "--",
        sys.executable,
        "-c",
        "print(1)",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    told = "No Python process of the command has forked."
    assert json.loads(done.stdout) == {"version": 1, "findings": [], "notes": [told]}, done.stderr
    assert done.stderr == f"1\nclonal doctor: {told}\n"


def test_a_command_that_fails_is_looked_at_all_the_same(capsys: Captured) -> None:
    assert main(["doctor", "--", sys.executable, "-c", "raise SystemExit(3)"]) == 2
    told = capsys.readouterr()
    assert "ended with status 3" in told.err and "nothing to change" in told.out


def test_a_process_that_ends_meanwhile_costs_only_what_is_not_there(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_patient: Patient) -> list[Finding]:
        raise ProcessLookupError(3, "process 7 is gone")

    gone.__name__ = "threads"
    monkeypatch.setattr(examine, "OF_FAMILIES", (gone, inherited.descriptors))
    with running(DESCRIPTORS) as facts:
        assert main(["doctor", str(facts["pid"])]) == 2
    told = capsys.readouterr()
    assert (
        "threads not looked at" in told.err and "process 7 is gone" in told.err and told.err.count("\n") == 1
    )
    assert "1. descriptors" in told.out


def test_a_family_that_ends_before_it_was_read(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    with running("tell()") as facts:
        monkeypatch.setattr(reading.procfs, "smaps", lambda *_: [])
        assert main(["doctor", str(facts["pid"])]) == 2
    told = capsys.readouterr()
    assert "ended while it was read" in told.err and told.err.count("\n") == 1 and not told.out


def test_a_process_of_another_user_is_refused_in_one_line() -> None:
    program = """
    import subprocess, sys
    command = [sys.executable, "-m", "clonal", "doctor", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\\n") == 1 and "root may" in done.stderr, done
    """
    run_script(program, user="nobody")
