"""The floor: compiles floor.c where there is a compiler, and asks it for its times."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib import resources
from pathlib import Path

from clonal.errors import Error


class Unavailable(Error):
    """A strategy cannot be measured on this machine; the message says why."""


def compile_floor(folder: Path) -> Path:
    """The program's path; Unavailable without a working C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise Unavailable("no C compiler (cc, gcc or clang) to build the minimal C program with")
    source, program = folder / "floor.c", folder / "floor"
    source.write_text(resources.files("clonal.bench").joinpath("floor.c").read_text("utf-8"), "utf-8")
    done = subprocess.run(
        [compiler, "-O2", "-o", str(program), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Unavailable(f"{compiler} could not build the minimal C program: {reason}")
    return program


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
