"""`launch` does what subprocess does, without forking; both ways of starting are tested."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import clonal
from clonal.clone import launch as module
from clonal.clone.launch import DEVNULL, PIPE, STDOUT
from clonal.kernel import probe
from tests.support import run_script

Outcome = tuple[Any, ...]
BOTH_WAYS = ["clone3", "subprocess"]


@pytest.fixture(params=BOTH_WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The test runs with clone3, then with what is used where there is none."""
    if request.param == "subprocess":
        monkeypatch.setattr(module, "_missing", lambda: "started by subprocess: as a test")
    elif module._missing():
        pytest.skip(f"no fast way here: {module._missing()}")
    yield request.param


def outcome(run: Callable[[], tuple[int, bytes, bytes]]) -> Outcome:
    try:
        return run()
    except Exception as error:
        filename = getattr(error, "filename", None)
        return type(error).__name__, getattr(error, "errno", None), filename and os.fsdecode(filename)


def by_subprocess(argv: Any, options: dict[str, Any]) -> tuple[int, bytes, bytes]:
    run = subprocess.run(argv, capture_output=True, check=False, stdin=subprocess.DEVNULL, **options)
    return run.returncode, run.stdout, run.stderr


def by_launch(argv: Any, options: dict[str, Any]) -> tuple[int, bytes, bytes]:
    with clonal.launch(argv, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, **options) as process:
        assert process.stdout and process.stderr
        out, err = process.stdout.read(), process.stderr.read()
        return process.wait(), out, err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Programs of every kind that exec refuses, and one that it takes."""
    for name, text, mode in [
        ("good", "#!/bin/sh\necho good $0 $@", 0o755),
        ("closed", "#!/bin/sh\necho closed", 0o644),
        ("shebangless", "echo no shebang", 0o755),
        ("lost", "#!/no/such/interpreter\n", 0o755),
    ]:
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "good").write_text("#!/bin/sh\necho second")
    (tmp_path / "bin" / "good").chmod(0o755)
    (tmp_path / "bin" / "closed").write_text("#!/bin/sh\necho second")
    (tmp_path / "bin" / "closed").chmod(0o755)
    return tmp_path


SIGNALS = ["grep", "-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status"]
CASES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "success": (["true"], {}),
    "exit status": (["sh", "-c", "exit 42"], {}),
    "killed": (["sh", "-c", "kill -9 $$"], {}),
    "both outputs": (["sh", "-c", "echo out; echo err >&2"], {}),
    "arguments": (["printf", "%s|", "", "a b", "ü\n", "'\""], {}),
    "bytes": ([b"printf", b"%s", b"\xff\xfe"], {}),
    "path objects": ([Path("/bin/echo"), Path("x")], {}),
    "environment": (["env"], {"env": {"A": "1", "B": "ü = x", "PATH": os.defpath}}),
    "empty environment": (["/usr/bin/env"], {"env": {}}),
    "inherited environment": (["sh", "-c", "echo $PATH"], {}),
    "illegal variable": (["true"], {"env": {"A=B": "1", "PATH": os.defpath}}),
    "cwd": (["pwd"], {"cwd": "/usr"}),
    "cwd for a relative program": (["./good", "a"], {"cwd": "{folder}"}),
    "no such cwd": (["true"], {"cwd": "/no/such/folder"}),
    "cwd is a file": (["true"], {"cwd": "/etc/passwd"}),
    "no such program": (["no-such-program-anywhere"], {}),
    "no such path": (["/no/such/program"], {}),
    "a folder": (["/usr"], {}),
    "not executable": (["{folder}/closed"], {}),
    "no shebang": (["{folder}/shebangless"], {}),
    "no interpreter": (["{folder}/lost"], {}),
    "below a file": (["/etc/passwd/x"], {}),
    "first on PATH": (["good"], {"env": {"PATH": "{folder}:{folder}/bin"}}),
    "skips what may not be executed": (["closed"], {"env": {"PATH": "{folder}:{folder}/bin"}}),
    "says what may not be executed": (["closed"], {"env": {"PATH": "{folder}:/no/such"}}),
    "null byte": (["echo", "a\0b"], {}),
    "another argv[0]": (["name", "-c", "echo $0"], {"executable": "/bin/sh"}),
    "signals": (SIGNALS, {}),
    "descriptors": (["ls", "/proc/self/fd"], {}),
}


def fill(value: Any, folder: Path) -> Any:
    if isinstance(value, str):
        return value.replace("{folder}", str(folder))
    if isinstance(value, dict):
        return {key: fill(each, folder) for key, each in value.items()}
    return [fill(each, folder) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("case", CASES)
def test_the_outcome_is_that_of_subprocess(case: str, way: str, folder: Path) -> None:
    argv, options = (fill(each, folder) for each in CASES[case])
    expected = outcome(lambda: by_subprocess(argv, options))
    assert outcome(lambda: by_launch(argv, options)) == expected


def test_the_way_is_told() -> None:
    with clonal.launch(["true"]) as process:
        assert process.note is None or module._missing()
    run_script(
        """
        import clonal
        with clonal.launch(["true"]) as process:
            assert process.note == "started by subprocess: clone3 switched off", process.note
        assert process.returncode == 0
        """,
        env={"CLONAL_DISABLE": "clone3"},
    )


def test_an_ordinary_user_may_launch(user: str | None) -> None:
    run_script(
        """
        import clonal
        from clonal.clone.launch import PIPE
        with clonal.launch(["id", "-u"], stdout=PIPE) as process:
            print(process.stdout.read())
        assert process.returncode == 0
        """,
        user=user,
    )


def test_streams_go_where_they_are_told(way: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    with (
        path.open("wb") as file,
        clonal.launch(["sh", "-c", "cat; echo err >&2"], stdin=PIPE, stdout=file, stderr=STDOUT) as process,
    ):
        assert process.stdin and process.stdout is None
        process.stdin.write(b"in\n")
        process.stdin.close()
    assert path.read_bytes() == b"in\nerr\n"


def test_streams_may_swap_places(way: str) -> None:
    """The child's 1 is our 2 and its 2 our 1: neither may be overwritten before it is copied."""
    result = run_script(
        f"""
        import clonal
        from clonal.clone import launch
        if {way!r} == "subprocess":
            launch._missing = lambda: "a test"
        with clonal.launch(["sh", "-c", "echo to-out; echo to-err >&2"], stdout=2, stderr=1): pass
        """
    )
    assert (result.stdout, result.stderr) == ("to-err\n", "to-out\n")


def test_only_passed_descriptors_are_inherited(way: str) -> None:
    read, write = os.pipe()
    other = os.dup(read)
    os.set_inheritable(other, True)
    try:
        script = f"echo passed >/proc/self/fd/{write}; ls /proc/self/fd"
        with clonal.launch(["sh", "-c", script], stdout=PIPE, pass_fds=[write]) as process:
            assert process.stdout
            listed = process.stdout.read().split()
        assert os.read(read, 99) == b"passed\n"
        assert str(write).encode() in listed and str(other).encode() not in listed
    finally:
        for fd in (read, write, other):
            os.close(fd)


def test_a_new_session_is_one(way: str) -> None:
    with clonal.launch(
        ["sh", "-c", "cut -d ' ' -f 6 /proc/$$/stat"], stdout=PIPE, new_session=True
    ) as process:
        assert process.stdout
        assert int(process.stdout.read()) == process.pid


def test_waiting_stops_after_the_timeout_and_the_process_goes_on(way: str) -> None:
    with clonal.launch(["cat"], stdin=PIPE) as process:
        with pytest.raises(TimeoutError, match=f"process {process.pid} has not ended after 0.01 s"):
            process.wait(0.01)
        assert process.poll() is None and process.returncode is None
        process.terminate()
        assert process.wait(10) == process.returncode == process.poll() == -signal.SIGTERM
        process.kill()  # nothing to kill, no error


def test_the_pidfd_tells_of_the_end() -> None:
    with clonal.launch(["cat"], stdin=PIPE) as process:
        assert not module._ended(process.pidfd, 0)
        assert process.stdin
        process.stdin.close()
        assert module._ended(process.pidfd, 10)
        assert process.wait() == 0
    assert process.pidfd == -1


def test_several_tasks_await_one_process(way: str) -> None:
    async def main() -> list[int]:
        with clonal.launch(["cat"], stdin=PIPE) as process:

            async def wait() -> int:
                return await process

            tasks = [asyncio.create_task(wait()) for _ in range(3)]
            late = asyncio.create_task(wait())
            await asyncio.sleep(0)
            late.cancel()
            assert process.stdin
            process.stdin.close()
            return [*(await asyncio.gather(*tasks)), await process]

    assert asyncio.run(main()) == [0] * 4


def test_a_dropped_handle_warns_and_its_process_is_reaped_later(way: str) -> None:
    process = clonal.launch(["cat"], stdin=PIPE)
    pid, stdin = process.pid, process.stdin
    with pytest.warns(ResourceWarning, match=f"process {pid} is still running"):
        del process
    assert stdin
    stdin.close()
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # ended, a zombie
    with clonal.launch(["true"]):
        pass
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    assert module._dropped == []


def test_a_dropped_handle_of_an_ended_process_is_silent(way: str) -> None:
    process = clonal.launch(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del process


def test_a_status_that_somebody_else_took_is_said() -> None:
    run_script(
        """
        import signal, warnings, clonal
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        process = clonal.launch(["sh", "-c", "exit 3"])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert process.wait() == 255
        assert "taken by somebody else" in str(caught[0].message)
        """
    )


def test_a_failed_launch_leaves_no_zombie_and_no_descriptor(way: str) -> None:
    before = os.listdir("/proc/self/fd")
    for _ in range(20):
        with pytest.raises(FileNotFoundError):
            clonal.launch(["/no/such/program"], stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert os.listdir("/proc/self/fd") == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_threads_launch_at_once(way: str) -> None:
    wrong: list[object] = []

    def body(number: int) -> None:
        for _ in range(10):
            with clonal.launch(["sh", "-c", f"exit {number}"]) as process:
                pass
            if process.returncode != number:
                wrong.append((number, process.returncode))

    threads = [threading.Thread(target=body, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_any_other_folder_is_no_group_to_start_in(way: str, tmp_path: Path) -> None:
    v1 = probe.KERNEL.memory_cgroup
    for folder in (str(tmp_path), *([v1.path] if v1 and v1.version == 1 else [])):
        with pytest.raises(OSError, match="cannot launch into cgroup"):
            clonal.launch(["true"], cgroup=folder)


@pytest.mark.parametrize("argv", ["true", b"true", [], ()])
def test_a_string_is_no_argument_list(argv: Any) -> None:
    with pytest.raises(TypeError, match="argv is a list"):
        clonal.launch(argv)


def test_stdout_is_for_stderr_only() -> None:
    with pytest.raises(ValueError, match="STDOUT is for stderr only"):
        clonal.launch(["true"], stdout=STDOUT)
