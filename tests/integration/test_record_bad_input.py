"""`clonal record` where it cannot record, or not all: a clear line, and what there is is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from clonal.cli.main import main
from clonal.observe.analyse import load
from tests.integration.test_record import CLONAL, ROOT, needs_traps
from tests.support import IS_ROOT, run_script

FORKS = "import os; pid = os.fork(); pid or os._exit(0); os.waitpid(pid, 0)"


def record(path: Path, command: Sequence[object], *options: str) -> tuple[int, list[str]]:
    """Exit status, and the lines on standard error."""
    words = [*CLONAL, "-o", str(path), "--backend", "snapshot", *options, "--", *map(str, command)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr.splitlines()


def script(path: Path, text: str, mode: int = 0o755) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.newest
def test_a_wrong_output_is_refused_and_nothing_is_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = script(tmp_path / "app.py", "important")
    os.mkfifo(tmp_path / "pipe")
    for output, said in (
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "r", f"there is no folder {tmp_path}/no"),
        (mine / "r", f"there is no folder {mine}"),
        (mine, "is there, is no recording, and is not overwritten"),
        (tmp_path / "pipe", "is no regular file"),
        (Path("/dev/null"), "is no regular file"),
    ):
        assert main(["record", "-o", str(output), "--", "true"]) == 2
        assert capsys.readouterr().err == f"clonal: {output}: {said}; give another file with -o\n"
    assert mine.read_text() == "important"


def test_what_another_user_s_folder_holds_is_refused() -> None:
    run_script(
        """
        import contextlib, io
        from clonal.cli.main import main

        for arguments in (
            ["record", "-o", "/root/r", "--", "true"], ["report", "/root/r"],
            ["report", "r", "--flamegraph", "/root/r.html"], ["map", "1", "--html", "/root/m.html"],
        ):
            with contextlib.redirect_stderr(io.StringIO()) as told:
                assert main(arguments) == 2
            line = told.getvalue()
            assert line.startswith("clonal: /root/") and line.count("\\n") == 1, line
            assert "may not write to /root" in line or "Permission denied" in line, line
        """,
        user="nobody",
    )


@pytest.mark.newest
def test_what_cannot_be_run_leaves_no_recording(tmp_path: Path) -> None:
    for name, text, said in (
        ("text", "hello", "it is neither a program nor a script that begins with #!"),
        ("lost", "#!/no/such/python\n", "the interpreter that its first line names is not there"),
    ):
        command = script(tmp_path / name, text)
        status, lines = record(tmp_path / "r", [command])
        assert status == 2 and len(lines) == 1 and f"clonal: {command}: cannot be run: {said}" in lines[0]
        assert not (tmp_path / "r").exists()
    plain = script(tmp_path / "app.py", "", 0o644)
    assert record(tmp_path / "r", [plain]) == (2, [f"clonal: {plain}: no such command; give python {plain}"])


def test_a_program_that_is_not_python_and_one_that_does_not_fork_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "r"
    status, (line,) = record(path, ["true"])
    assert status == 0 and "no Python process was hooked in" in line and "--backend bpf" in line
    status, (line,) = record(path, [sys.executable, "-c", "raise SystemExit(3)"])
    assert (status, line) == (3, "clonal record: 1 Python process ran, but none forked: no page was shared")
    assert main(["report", str(path)]) == 0
    status, (line,) = record(path, [sys.executable, "-I", "-c", FORKS])
    assert "-I and -E leave out the hook" in line


@needs_traps
def test_a_script_of_the_shell_a_module_and_an_entry_point_are_recorded_whatever_their_names(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "ein ödes 'Ding'"
    folder.mkdir()
    program = script(folder / "prögram 1.py", f"#!{sys.executable}\n{FORKS}\n")
    shell = script(folder / "start it.sh", f"#!/bin/sh\nexec '{sys.executable}' -c '{FORKS}'\n")
    for command in ([program], [shell], [sys.executable, "-m", "tests.observed", "nothing"]):
        path = folder / "a recording"
        status, lines = record(path, command)
        assert status == 0 and "in 2 processes" in lines[0]
        assert "ein ödes" in lines[1] and len(load(path).processes) == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if not IS_ROOT:
        pytest.skip("only root may mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@needs_traps
def test_on_a_full_disk_what_was_written_is_kept_and_the_command_runs_on(small_disk: Path) -> None:
    path = small_disk / "r"
    command = [
        sys.executable,
        "-c",
        "from tests.observed import *; main('write_buffer'); raise SystemExit(7)",
    ]
    status, lines = record(path, command, "--backend", "sigtrap")
    assert status == 7
    assert any("is not recorded any more" in line and "No space left" in line for line in lines), lines
    assert f"clonal record: {path} has no end: No space left on device" in lines
    assert "The file is cut short" in " ".join(lines)
    assert len(load(path).processes) == 2
    path = small_disk / "second"
    assert record(path, ["true"]) == (
        2,
        [f"clonal: {path}: No space left on device; give another file with -o"],
    )


@needs_traps
def test_a_killed_recorder_leaves_a_recording_without_an_end(tmp_path: Path) -> None:
    path = tmp_path / "r"
    code = f"import os, time; {FORKS}; print(flush=True); input()"
    words = [*CLONAL, "-o", str(path), "--", sys.executable, "-c", code]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as recorder:
        assert recorder.stdin and recorder.stdout
        recorder.stdout.readline()
        recorder.send_signal(signal.SIGKILL)
        recorder.wait()
        assert load(path).status is None and len(load(path).processes) == 2
        recorder.stdin.close()
        assert recorder.stdout.read() == b""  # the command has ended too


@pytest.mark.newest
@pytest.mark.parametrize("ignored", [False, True])
def test_a_signal_that_comes_as_the_command_starts_is_the_command_s(ignored: bool) -> None:
    """One that the recorder ignores, as of nohup, the command ignores too."""
    run_script(
        f"""
        import os, signal, subprocess
        from pathlib import Path
        from clonal.observe.record.run import record

        class Popen(subprocess.Popen):
            def __init__(self, *arguments, **named):
                super().__init__(*arguments, **named)
                os.kill(os.getpid(), signal.SIGHUP)

        if {ignored}:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        subprocess.Popen = Popen
        command = ["sh", "-c", "kill -HUP $$; exit 3"] if {ignored} else ["sleep", "60"]
        status = record(command, Path("r"), backend="snapshot")
        assert status == (3 if {ignored} else 128 + signal.SIGHUP), status
        """
    )


@needs_traps
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_command_ended_by_a_signal_passes_it_on(number: signal.Signals, tmp_path: Path) -> None:
    code = f"{FORKS}; os.kill(os.getpid(), {int(number)})"
    status, lines = record(tmp_path / "r", [sys.executable, "-c", code])
    assert status == 128 + number and "1 process had no end" in lines[0] and "in 2 processes" in lines[1]
