"""Compiles every C source with setup.py's own flags and -Werror, and throws the objects away.

    compile_check.py [--cc aarch64-linux-gnu-gcc]

With a cross compiler the headers are this machine's: Python.h is the same everywhere, and its
pyconfig.h holds what both supported machines share (LP64, little endian). Debian's dispatches on
the target to a file that only the target's package has, so a copy of ours is put in that place.
"""

from __future__ import annotations

import argparse
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from unittest import mock

from setuptools import Extension


def extensions() -> list[Extension]:
    """The extensions as setup.py describes them for this machine."""
    with mock.patch("setuptools.setup") as setup:
        runpy.run_path("setup.py")
    return setup.call_args.kwargs["ext_modules"]


def target_headers(folder: Path) -> list[str]:
    """-I options for a pyconfig.h of the target machine, made from this machine's."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    include = Path(sysconfig.get_path("include"))
    ours = include.parent / (sysconfig.get_config_var("MULTIARCH") or "-") / version / "pyconfig.h"
    target = folder / "aarch64-linux-gnu" / version
    target.mkdir(parents=True)
    shutil.copy(ours if ours.exists() else include / "pyconfig.h", target / "pyconfig.h")
    return [f"-I{folder}"]


def compile_all(compiler: str) -> bool:
    """True if every source compiles; what the compiler says goes to stderr. The loader of the eBPF program is
    for one machine only, and the program it holds need not have been compiled."""
    core, *others = extensions()
    ok = True
    with tempfile.TemporaryDirectory() as scratch:
        includes = [*target_headers(Path(scratch)), f"-I{sysconfig.get_path('include')}"]
        for each in [core, *others] if compiler == "cc" else [core]:
            result = ["-c", "-o", str(Path(scratch) / "object.o")] if each is core else ["-fsyntax-only"]
            macros = [f"-D{name}={value}" for name, value in each.define_macros]
            flags = [*each.extra_compile_args, "-Werror", "-fPIC", *macros, *includes]
            for source in each.sources:
                command = [compiler, *flags, source, *result]
                ok &= subprocess.run(command, check=False).returncode == 0
    return ok


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cc", default="cc")
    return 0 if compile_all(parser.parse_args().cc) else 1


if __name__ == "__main__":
    sys.exit(main())
