"""The user's own part of a traceback that passed through this package."""

from __future__ import annotations

import re
from pathlib import Path

import clonal

_HEAD = "Traceback (most recent call last):\n"
_FRAME = re.compile(r'  File "(?P<file>.*)", line \d+, in .*\n(?:    .*\n)*')
_OURS = str(Path(clonal.__file__).parent)


def users_part(text: str) -> str:
    """The traceback without the frames before the user's first one. Where there is none (a name
    that the setup's module lacks) only the exception is left."""
    if not text.startswith(_HEAD):
        return text
    at = len(_HEAD)
    while (frame := _FRAME.match(text, at)) and _is_machinery(frame["file"]):
        at = frame.end()
    return (_HEAD if _FRAME.match(text, at) else "") + text[at:]


def _is_machinery(file: str) -> bool:
    return file.startswith((_OURS, "<frozen importlib")) or file.endswith("/importlib/__init__.py")
