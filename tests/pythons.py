"""The interpreters of this machine, one of each version that can be recorded."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

VERSIONS = ("3.11", "3.12", "3.13")


@functools.cache
def pythons() -> dict[str, str]:
    """Path by version, this one among them."""
    found = {}
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for version in VERSIONS:
        places = [sys.executable] if version == own else [shutil.which(f"python{version}")]
        places += sorted(map(str, root.glob(f"versions/*/bin/python{version}")))
        for path in filter(None, places):
            if _runs(path, version):
                found[version] = path
                break
    return found


def _runs(path: str, version: str) -> bool:
    """A name in PATH may be a stub that only tells what to install."""
    code = "import sys; print('.'.join(map(str, sys.version_info[:2])))"
    done = subprocess.run([path, "-c", code], capture_output=True, text=True)
    return done.stdout.strip() == version


def include(path: str) -> str:
    """The folder of its headers."""
    code = "import sysconfig; print(sysconfig.get_path('include'))"
    return subprocess.run([path, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
