"""The three lines of the README, under the server they are written for."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import ROOT

pytest.importorskip("gunicorn", reason="gunicorn is not installed")

APP = """
import os, resource
DATA = {str(number): [number] for number in range(300_000)}

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def app(environ, start_response):
    before = faults()
    total = sum(value[0] for value in DATA.values())
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {total} {faults() - before}".encode()]
"""


def readme_hook() -> str:
    """The configuration that the README shows."""
    text = (ROOT / "README.md").read_text()
    found = re.search(r"```python\n(import clonal\npreload_app.*?)```", text, re.DOTALL)
    assert found, "the README no longer shows the hook"
    return found[1]


@contextmanager
def gunicorn(folder: Path, config: str) -> Iterator[Path]:
    """A server of two workers on a socket of its own; ended, and its log checked, at the end."""
    (folder / "app.py").write_text(APP)
    bind = folder / "socket"
    ready, writer = os.pipe()
    tell = f"def post_worker_init(worker): __import__('os').write({writer}, b'.')"
    (folder / "conf.py").write_text(f"{config}\n{tell}\n")
    options = ["-c", "conf.py", "-w", "2", "-b", f"unix:{bind}", "--log-file", "log", "app:app"]
    command = [sys.executable, "-m", "gunicorn", *options]
    server = subprocess.Popen(command, cwd=folder, pass_fds=[writer])
    os.close(writer)
    try:
        assert os.read(ready, 1) and os.read(ready, 1), (folder / "log").read_text()
        yield bind
    finally:
        os.close(ready)
        server.send_signal(signal.SIGTERM)
        server.wait(30)
    log = (folder / "log").read_text()
    assert "Traceback" not in log, log


def ask(bind: Path) -> tuple[int, int, int]:
    """(worker's pid, sum it found, faults it took to find it)"""
    connection = http.client.HTTPConnection("localhost", timeout=30)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(bind))
    connection.request("GET", "/")
    pid, total, faults = connection.getresponse().read().split()
    connection.close()
    return int(pid), int(total), int(faults)


def test_gunicorns_workers_read_a_frozen_masters_objects_without_copying(tmp_path: Path) -> None:
    with gunicorn(tmp_path, readme_hook()) as bind:
        _, total, faults = ask(bind)
    assert total == sum(range(300_000))
    assert "frozen:" in (tmp_path / "log").read_text()
    if sys.version_info >= (3, 12):  # objects are immortal
        assert faults < 1_500


def test_without_the_hook_the_same_request_copies_the_heap(tmp_path: Path) -> None:
    with gunicorn(tmp_path, "preload_app = True") as bind:
        _, total, faults = ask(bind)
    assert total == sum(range(300_000))
    assert faults > 5_000
