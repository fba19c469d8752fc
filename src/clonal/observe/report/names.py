"""Names of files and lines, as short as they can be and still say which."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from clonal.observe.copies import OUTER, UNKNOWN, Frame

INSTALLED = re.compile(r".*/(?:site|dist)-packages/(?P<rest>.+)$")
STANDARD = re.compile(r".*/lib(?:64)?/python\d[\d.]*t?/(?P<rest>.+)$")
COMMAND = re.compile(r".*/s?bin/(?P<rest>[^/]+)(?<!\.py)$")  # that pip has made for a library, as gunicorn
LIBRARIES = (INSTALLED, STANDARD, COMMAND)
FROZEN = re.compile(r"<frozen (?P<rest>.+)>$")
PYTHON = re.compile(r"(lib)?python\d?[\d.]*t?d?(\.so[\d.]*)?$")
UNKNOWN_CODE = "(unknown)"


class Names:
    """Short names of the files of a recording: what libraries are installed as, the program's own from the
    folder on that holds them all."""

    def __init__(self, files: Iterable[str]) -> None:
        own = {os.path.dirname(file) for file in files if file.startswith("/") and not _library(file)}
        common = os.path.commonpath(own) if own else "/"
        self._folder = common + "/" if common != "/" else ""  # programs of several folders keep their paths

    def file(self, file: str) -> str:
        """`json/__init__.py`, `shop/views.py`, `importlib._bootstrap`, `libc.so.6`."""
        if frozen := FROZEN.match(file):
            return frozen["rest"]
        found = _library(file)
        if found is not None:
            return found
        if self._folder and file.startswith(self._folder):
            return file[len(self._folder) :]
        return file

    def module(self, file: str) -> str:
        """`json`, `shop.views`; a library of C by its file."""
        short = self.file(file)
        if not short.endswith(".py"):
            return short if short != UNKNOWN.file else UNKNOWN_CODE
        dotted = short.removesuffix(".py").strip("/").replace("/", ".")
        return dotted.removesuffix(".__init__") or dotted

    def place(self, frame: Frame) -> str:
        """`app.py:12`, or the library; "" if it is not known."""
        if frame.file in ("", UNKNOWN.file):
            return ""
        return f"{self.file(frame.file)}:{frame.line}" if frame.line else self.file(frame.file)

    def label(self, frame: Frame) -> str:
        """`total (app.py:12)`."""
        place = self.place(frame)
        return f"{self.function(frame)} ({place})" if place else self.function(frame)

    def function(self, frame: Frame) -> str:
        """Its name, or that it has none."""
        if frame == OUTER:
            return frame.function
        return frame.function if frame != UNKNOWN else UNKNOWN_CODE


def _library(file: str) -> str | None:
    """The name under which it is installed; None for a file of the program's own."""
    for pattern in LIBRARIES:
        if match := pattern.match(file):
            return match["rest"]
    if re.search(r"\.so[\d.]*$", file) or is_python(file):
        return os.path.basename(file)
    return None


def is_python(library: str) -> bool:
    """Whether this is the interpreter itself, of which the line of Python says enough."""
    return PYTHON.match(os.path.basename(library)) is not None
