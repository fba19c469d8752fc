"""Small C programs that are built where they are needed: what must not run inside an interpreter."""

from __future__ import annotations

import shutil
import subprocess
from importlib import resources
from pathlib import Path

from clonal.errors import Error


class NoProgram(Error):
    """A C program could not be built on this machine; the message says why."""


def build(package: str, name: str, folder: Path) -> Path:
    """Compiles `name`.c of a package into `folder`; the program's path. Raises NoProgram."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise NoProgram("no C compiler (cc, gcc or clang) to build the minimal C program with")
    source, program = folder / f"{name}.c", folder / name
    source.write_text(resources.files(package).joinpath(source.name).read_text("utf-8"), "utf-8")
    done = subprocess.run(
        [compiler, "-O2", "-o", str(program), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise NoProgram(f"{compiler} could not build the minimal C program: {reason}")
    return program
