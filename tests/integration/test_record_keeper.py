"""The keeper of rings: what it takes, what it refuses, and that it leaves nothing behind."""

from __future__ import annotations

import os
import random
import shlex
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from clonal import _native
from clonal.observe.analyse import load
from clonal.observe.record.file import Writer
from clonal.observe.record.keeper import MESSAGE, Keeper
from tests.integration.test_record import CLONAL, ROOT, needs_traps
from tests.support import run_script

pytestmark = pytest.mark.newest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kept.rec"


@pytest.fixture
def keeper(path: Path) -> Iterator[Keeper]:
    writer = Writer(str(path))
    keeper = Keeper(writer)
    yield keeper
    keeper.close()
    writer.close()


def send(keeper: Keeper, secret: str, *files: int) -> None:
    name = keeper.address.partition(":")[0]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"".join(fd.to_bytes(4, "little") for fd in files))]
        message = MESSAGE.pack(secret.encode(), os.getpid())
        sender.sendmsg([message], rights if files else [], 0, b"\0" + name.encode())


@pytest.mark.parametrize("secret", ["", "0" * 32])
def test_a_stranger_s_ring_is_not_kept(keeper: Keeper, path: Path, secret: str) -> None:
    with open(os.memfd_create("stranger"), "rb") as ring:
        send(keeper, secret, ring.fileno())
        send(keeper, keeper.address.partition(":")[2])  # the secret, but no ring
        send(keeper, keeper.address.partition(":")[2], ring.fileno(), ring.fileno())
    keeper.close()
    assert path.stat().st_size == 0


def test_a_file_of_another_size_is_no_ring() -> None:
    assert ring_size() > 1 << 20


def ring_size() -> int:
    with open(os.memfd_create("short"), "rb") as file, pytest.raises(ValueError, match="no ring") as caught:
        _native.trap_salvage(file.fileno())
    return int(str(caught.value).split()[-2])


def test_a_ring_full_of_anything_can_be_read() -> None:
    """It is another process's memory: nothing in it is believed."""
    size = ring_size()
    for seed in range(4):
        with open(os.memfd_create("garbage"), "r+b") as file:
            file.write(random.Random(seed).randbytes(1 << 22))
            file.truncate(size)
            file.flush()
            found, maps = _native.trap_salvage(file.fileno())
        assert len(found[0]) % 40 == 0 and isinstance(maps, bytes)


WORKERS = """
import multiprocessing, time

numbers = [(i,) for i in range(100_000)]

def work(done):
    done.send(sum(1 for _ in numbers))
    time.sleep(60)

if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    workers = [context.Process(target=work, args=(theirs,)) for _ in range(2)]
    for worker in workers:
        worker.start()
        mine.recv()
    for worker in workers:
        worker.terminate()
        worker.join()
"""


MANY = """
import os, resource, signal

assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 32  # as it would be by itself
buffer = bytearray(4096 * 200)
buffer[::4096] = b"1" * 200
done, tell = os.pipe()
children = []
for _ in range(30):
    children.append(os.fork())
    if not children[-1]:
        buffer[::40960] = b"2" * 20
        os.write(tell, b".")
        signal.pause()
for child in children:
    os.read(done, 1)
for child in children:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


@needs_traps
def test_more_are_kept_than_there_are_descriptors_for_at_first(tmp_path: Path) -> None:
    program, path = tmp_path / "many.py", tmp_path / "many.rec"
    program.write_text(MANY)
    command = [*CLONAL, "-o", str(path), "--backend", "sigtrap", "--", sys.executable, str(program)]
    limited = f"ulimit -Sn 32; exec {shlex.join(command)}"
    done = subprocess.run(["sh", "-c", limited], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = load(path)
    pages = Counter(copy.pid for copy in found.by_program if copy.category == "large buffers")
    workers = [each.pid for each in found.processes.values() if each.generation == 1]
    assert len(workers) == 30 and min(pages[pid] for pid in workers) >= 20, pages


@needs_traps
def test_workers_are_recorded_though_they_are_killed(user: str | None) -> None:
    script = f"""
import subprocess, sys
from pathlib import Path
from clonal.observe.analyse import load
Path("workers.py").write_text({WORKERS!r})
command = [sys.executable, "-m", "clonal", "record", "-o", "workers.rec", "--", sys.executable, "workers.py"]
subprocess.run(command, check=True)
found = load("workers.rec")
workers = [each for each in found.processes.values() if each.generation == 1]
assert len(workers) == 2 and all(each.ended is None for each in workers), workers
for worker in workers:
    copies = [copy for copy in found.by_program if copy.pid == worker.pid and copy.frame.line == 7]
    assert sum(copy.type == "tuple" and copy.cause == "reference count" for copy in copies) > 500, len(copies)
"""
    run_script(script, user=user)
