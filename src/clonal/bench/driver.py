"""The driver's side of a subject: starts it, asks it, looks at its children from outside."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from clonal.bench.floor import Unavailable
from clonal.bench.gate import Gate
from clonal.errors import Error
from clonal.kernel import procfs

PATIENCE = 300.0
# by -c: a main module that has a file would be imported by every template and spawned child
MAIN = "from clonal.bench.subject import main; main()"
_numbers = itertools.count()


class SubjectDied(Error):
    """A subject ended or fell silent; its last words are in the message."""


class Scratch:
    """A folder in memory for shared pages and FIFOs, removed at the end."""

    def __init__(self) -> None:
        base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self._folder = tempfile.TemporaryDirectory(prefix="clonal-bench-", dir=base)
        self.path = Path(self._folder.name)

    def new(self) -> Path:
        folder = self.path / str(next(_numbers))
        folder.mkdir()
        return folder

    def close(self) -> None:
        self._folder.cleanup()


class Subject:
    """One subject process. `ask` sends a command and waits for its answer."""

    def __init__(self, spec: dict[str, Any], scratch: Scratch, python: str = sys.executable) -> None:
        folder = scratch.new()
        self.spec = spec | {"page": str(folder / "page"), "folder": str(folder)}
        self.gate = Gate(str(folder))
        self._words = open(folder / "stderr", "w+b")  # noqa: SIM115
        self._process = subprocess.Popen(
            [python, "-c", MAIN, json.dumps(self.spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
        )
        self.facts: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def prepare(self) -> dict[str, Any]:
        seconds = self.ask("build")
        self.facts = {"warm_seconds": seconds} | self.ask("ready")
        return self.facts

    def ask(self, do: str, **arguments: Any) -> Any:
        self.send(do, **arguments)
        return self.receive()

    def send(self, do: str, **arguments: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do} | arguments).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died("ended before it was asked") from None

    def receive(self) -> Any:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], PATIENCE)[0]:
            self._process.kill()
            raise self._died(f"said nothing for {PATIENCE:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise self._died("ended")
        reply = json.loads(line)
        if "error" in reply:
            raise Unavailable(reply["error"])
        return reply["value"]

    def private(self, work: str) -> dict[str, int]:
        """What one child that did `work` holds alone, while it waits at the gate."""
        self.send("measure", work=work, gate=True)
        pid = self.gate.arrived(PATIENCE)
        if pid is None:
            raise self._died(f"made no child that came to the gate in {PATIENCE:.0f} s")
        found = {"private": procfs.private_bytes(pid), "page_tables": procfs.status(pid).size("VmPTE")}
        self.gate.open()
        self.receive()
        return found

    def _died(self, what: str) -> SubjectDied:
        self._words.flush()
        self._words.seek(0)
        words = self._words.read().decode(errors="replace").strip().splitlines()
        last = f": {words[-1]}" if words else ""
        return SubjectDied(f"the {self.spec['strategy']} subject {what}{last}")

    def close(self) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._words.close()
        self.gate.close()
