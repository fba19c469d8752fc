"""The floor: compiles floor.c where there is a compiler, and asks it for its times."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from clonal.errors import Error
from clonal.kernel.compiler import NoProgram, build


class Unavailable(Error):
    """A strategy cannot be measured on this machine; the message says why."""


def compile_floor(folder: Path) -> Path:
    """The program's path; Unavailable without a working C compiler."""
    try:
        return build("clonal.bench", "floor", folder)
    except NoProgram as error:
        raise Unavailable(error.message) from None


class Floor:
    """The running program, asked for N times of something; each answer is (call, until reaped)."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen(
            [str(program), "serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, what: str, count: int) -> list[tuple[int, int]]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{what} {count}\n")
        self._process.stdin.flush()
        times = json.loads(self._process.stdout.readline())
        return list(zip(times[::2], times[1::2], strict=True))

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(timeout=10)
        if self._process.stdout is not None:
            self._process.stdout.close()
