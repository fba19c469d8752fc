"""Letters that an encoding does not have, where it is no UTF-8: they become others like them."""

from __future__ import annotations

import codecs
import io
import sys

LIKE = dict(zip("▁▂▃▄▅▆▇█▏▎▍▌▋▊▉", "_.-=+*%#''===##", strict=True)) | {
    "×": "x", "µ": "u", "…": ".", "—": "-", "–": "-", "−": "-", "·": ".", "─": "-", "│": "|", "├": "|",
    "└": "`", "▾": "v", "▴": "^",
}  # fmt: skip


def _output(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(LIKE.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


def _errors(error: UnicodeError) -> tuple[str, int]:
    """What is like no other stays as it can be told: it may be a file's name."""
    assert isinstance(error, UnicodeEncodeError)
    letters = error.object[error.start : error.end]
    told = (LIKE.get(each) or each.encode("ascii", "backslashreplace").decode() for each in letters)
    return "".join(told), error.end


OUTPUT, ERRORS = "clonal.output", "clonal.errors"
codecs.register_error(OUTPUT, _output)
codecs.register_error(ERRORS, _errors)


def prepare_errors() -> None:
    """Standard error, as far as it is this process's own."""
    if sys.stderr is sys.__stderr__ and isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors=ERRORS)
