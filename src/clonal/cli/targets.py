"""What the user names on the command line, checked before anything is started.

Nothing of the user's is imported here: their code runs, and fails with its own traceback, in the
template.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Iterable
from importlib.machinery import PathFinder
from pathlib import Path

from clonal.cli.main import UserMistake


def script(name: str) -> Path:
    """A readable script; of a folder its `__main__.py`, as python has it."""
    path = Path(name)
    if path.is_dir():
        path /= "__main__.py"
        if not path.exists():
            raise UserMistake(f"{name} is a folder without a __main__.py: name a script")
    if not path.exists():
        raise UserMistake(f"no script {name!r} in {Path.cwd()}")
    if not path.is_file():
        raise UserMistake(f"{name} is not a regular file: name a script")
    if not os.access(path, os.R_OK):
        raise UserMistake(f"{name} may not be read by this user: chmod +r {name}")
    return path


def check_modules(names: Iterable[str]) -> None:
    """Refuse a module that is not there."""
    for name in names:
        if not _findable(name):
            raise UserMistake(f"no module {name!r} to preload: install it, or correct the name")


def _findable(name: str) -> bool:
    """True where the import system would find the module; imports nothing, not even its package."""
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # something like __main__
        return False
    for depth in range(1, len(rest) + 1):
        if spec is None or spec.submodule_search_locations is None:
            return False
        spec = PathFinder.find_spec(".".join([top, *rest[:depth]]), spec.submodule_search_locations)
    return spec is not None


def setup(text: str) -> str:
    """`module:function` or `file.py:function`, of which the place exists and, where its source can
    be read, defines the name."""
    place, _, function = text.rpartition(":")
    if not place or not function.isidentifier():
        raise UserMistake(f"--setup {text!r} is not of the form module:function or file.py:function")
    if place.endswith(".py"):
        if not os.path.isfile(place):
            raise UserMistake(f"no file {place!r} for --setup in {Path.cwd()}")
        _check_defines(Path(place), function)
    elif not _findable(place):
        raise UserMistake(f"no module {place!r} for --setup (looked in {sys.path[0]} and on sys.path)")
    return text


def _check_defines(path: Path, function: str) -> None:
    """Where the file's text never has the name, it cannot define it."""
    if not re.search(rf"\b{function}\b|import \*", path.read_text(errors="replace")):
        raise UserMistake(f"{path} defines no {function!r} for --setup")
