"""Between the clone3 of `launch` and its exec: what the child shares, and what it must not do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import clonal
from clonal.clone import launch as module
from clonal.clone.launch import PIPE
from clonal.kernel import memory
from tests.overcommit import overcommit_mode
from tests.support import IS_ROOT, run_script


def test_handlers_of_fork_do_not_run() -> None:
    if module._missing():
        pytest.skip(f"no fast way here: {module._missing()}")
    run_script(
        """
        import os, clonal
        for when in ("before", "after_in_parent", "after_in_child"):
            os.register_at_fork(**{when: lambda: os._exit(9)})
        with clonal.launch(["true"]): pass
        """
    )


def test_a_handler_never_runs_in_the_child() -> None:
    """It would write to its parent's memory from another process. Each signal goes to the whole
    group while programs are launched; the C handler leaves one byte in a pipe for each time it ran,
    in whichever process."""
    if module._missing():
        pytest.skip(f"no fast way here: {module._missing()}")
    run_script(
        """
        import os, signal, time, clonal
        read, write = os.pipe()
        os.set_blocking(write, False)
        acks, ack = os.pipe()
        sender = os.fork()
        if sender == 0:
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            os.close(ack)
            while os.read(acks, 1):
                time.sleep(0.0002)  # else the handler is interrupted by the next before it returns
                os.killpg(0, signal.SIGUSR1)
            os._exit(0)
        os.close(acks)
        handled = 0
        def handle(*_):
            global handled
            handled += 1
            os.write(ack, b"x")
        signal.signal(signal.SIGUSR1, handle)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        os.write(ack, b"x")
        codes = set()
        for _ in range(400):
            with clonal.launch(["true"], pass_fds=[write]) as process: pass
            codes.add(process.returncode)
        signal.signal(signal.SIGUSR1, lambda *_: globals().update(handled=handled + 1))
        os.close(ack)
        os.waitpid(sender, 0)
        ran = len(os.read(read, 1 << 20))
        assert codes <= {0, -signal.SIGUSR1}, codes
        assert handled > 100 and ran == handled, (handled, ran)
        """
    )


def test_a_v2_group_holds_the_process_from_its_start() -> None:
    if module._missing() or not IS_ROOT:
        pytest.skip("needs root and clone3")
    mounts = [
        line.split()[4]
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if " - cgroup2 " in line
    ]
    if not mounts:
        pytest.skip("no cgroup v2 is mounted")
    group = Path(mounts[0], f"clonal-test-{os.getpid()}")
    group.mkdir()
    try:
        for given in (str(group), os.open(group, os.O_RDONLY | os.O_DIRECTORY)):
            with clonal.launch(["cat", "/proc/self/cgroup"], stdout=PIPE, cgroup=given) as process:
                assert process.stdout
                assert f"0::/{group.name}\n".encode() in process.stdout.read()
        os.close(given)  # type: ignore[arg-type]
    finally:
        group.rmdir()


def test_a_large_process_launches_where_fork_would_be_refused() -> None:
    """Nothing is charged: with little commit left a fork fails and a launch does not."""
    with overcommit_mode(memory.OVERCOMMIT_GUESS):
        run_script(
            """
            import mmap, os, clonal
            from clonal.kernel import memory
            info = memory.meminfo()
            size = (info["MemTotal"] + info["SwapTotal"]) * 6 // 10 // 4096 * 4096
            both = [mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(2)]
            try:
                os.fork()
                raise SystemExit("fork was not refused")
            except OSError as error:
                assert error.errno == 12
            with clonal.launch(["true"]) as process: pass
            assert process.returncode == 0
            """
        )
