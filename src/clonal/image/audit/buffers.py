"""How many bytes a file object holds back, found without flushing it.

A seekable file tells: its position less the descriptor's. A pipe or terminal does not, so the
counter is read from the object's own memory. Where the counter lies is learnt from two writers made
for it: only one word of them is -1 before a write and the number of written bytes after.
"""

from __future__ import annotations

import functools
import gc
import io
import os
import struct
from typing import Any

from clonal.image.audit.heap import ask
from clonal.image.audit.tasks import own_memory

PROBE = 1237  # bytes: a number that no other field of a fresh writer has


class _Sink(io.RawIOBase):
    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return len(data)


def pending(file: Any) -> str:
    """ "NAME holds N bytes", or "" when it holds none or it cannot be known (detached, half built)."""
    size = ask(_held_back, file, default="")
    return f"{_name(file)} holds {size}" if size else ""


def _held_back(file: Any) -> str:
    if file.closed or not file.writable():
        return ""
    return _in_text(file) if isinstance(file, io.TextIOWrapper) else _in_buffer(file)


def _name(file: Any) -> str:
    name = ask(getattr, file, "name", None, default=None)
    return repr(name) if type(name) in (str, bytes, int) else type(file).__qualname__


def _in_text(file: Any) -> str:
    """Characters that a text file has not yet given to its buffer: a str, bytes, or a list of them."""
    known = {id(file.encoding), id(file.errors), id(file.newlines)}
    for held in gc.get_referents(file):
        if type(held) in (str, bytes) and len(held) and id(held) not in known and not _is_newline(held):
            return f"{len(held)} characters of text"
        if type(held) is list and all(type(part) in (str, bytes) for part in held):
            return f"{sum(map(len, held))} characters of text"
    return ""


def _is_newline(text: str | bytes) -> bool:
    return text in ("\n", "\r", "\r\n", "")


def _in_buffer(file: Any) -> str:
    size = _by_position(file) if file.seekable() else _by_counter(file)
    return f"{size} bytes" if size > 0 else ""


def _by_position(file: Any) -> int:
    return int(file.tell()) - os.lseek(file.fileno(), 0, os.SEEK_CUR)


def _by_counter(file: Any) -> int:
    at = _counter_offset()
    if at is None:
        return 0
    words = _words(file)
    return words[at] if at < len(words) and 0 < words[at] <= 1 << 40 else 0


@functools.cache
def _counter_offset() -> int | None:
    fresh, written = io.BufferedWriter(_Sink(), 4096), io.BufferedWriter(_Sink(), 4096)
    written.write(b"\0" * PROBE)
    before, after = _words(fresh), _words(written)
    candidates = [at for at, pair in enumerate(zip(before, after, strict=True)) if pair == (-1, PROBE)]
    return candidates[0] if len(candidates) == 1 else None


def _words(file: object) -> tuple[int, ...]:
    data = own_memory(id(file), io.BufferedWriter.__basicsize__)
    return struct.unpack(f"@{len(data) // 8}q", data[: len(data) // 8 * 8])
