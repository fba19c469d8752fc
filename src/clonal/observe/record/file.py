"""A recording: one file that many processes append to, readable up to the last whole chunk.

A chunk is a header and a payload, written by one write(2) to a file opened with O_APPEND, so chunks of
different processes never mix (fs/read_write.c, inode lock), and what a killed process had written stays.
The payload is compact JSON; that of FAULTS is followed by records of the C struct `fault` (_native/trap.h).
A chunk that is damaged, or of which a full disk took half, is passed over up to the next whole one.
"""

from __future__ import annotations

import enum
import errno
import json
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from clonal.errors import Error

MAGIC = b"CLR1"
HEADER = struct.Struct("<4sHHIIIQ")  # magic, kind, spare, bytes of JSON, bytes of records, CRC, pid
RECORD = 40
WORDS = 8  # of a command line
LIMIT = 512 << 20  # bytes; what does not fit is counted
BLOCK = 1 << 20  # bytes that are searched at a time


class Kind(enum.IntEnum):
    """What a chunk holds."""

    BEGIN = 1  # of the recording: command, machine, time, backend
    PROCESS = 2  # a process that is recorded from now on
    FAULTS = 3
    END = 4  # of a process, or with pid 0 of the recording
    HOOKED = 5  # a Python process that will be recorded when it forks


def faults(undrained: tuple[Any, ...]) -> dict[str, Any]:
    """What a chunk of FAULTS says besides its records, of what `_native.trap_drain()` returns. `after`: how
    many stacks, types and faults came before, so that a chunk that is lost, or there twice, moves nothing."""
    _, stacks, types, lost, fresh, *after = undrained
    return {"stacks": stacks, "types": types, "lost": lost, "fresh": fresh, "after": after}


class BadRecording(Error):
    """A file that is no recording."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}", path=path, why=why)


def is_recording(path: Path | str) -> bool:
    """Whether a file begins as one, of whatever version. Raises OSError."""
    with open(path, "rb") as file:
        return file.read(len(MAGIC))[:3] == MAGIC[:3]


class Chunk(NamedTuple):
    kind: Kind
    pid: int
    data: Any  # of its JSON; a recording may hold anything (fields.py)
    records: bytes


def packed(kind: int, pid: int, text: bytes, records: bytes = b"") -> bytes:
    """A chunk as it is in the file. The CRC is that of a header with a CRC of 0, and of what follows."""
    facts = MAGIC, kind, 0, len(text), len(records)
    check = zlib.crc32(records, zlib.crc32(text, zlib.crc32(HEADER.pack(*facts, 0, pid))))
    return HEADER.pack(*facts, check, pid) + text + records


class Writer:
    """Appends chunks. Safe in any number of processes; records that would make the file longer than `limit`
    are dropped, and all that come after them; `dropped` says how many."""

    def __init__(self, path: str, limit: int = LIMIT) -> None:
        self.path, self.limit = path, limit
        self.dropped = 0
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._file = _identity(os.fstat(self._fd))

    def write(self, kind: Kind, data: dict[str, Any], records: bytes = b"", pid: int | None = None) -> None:
        """Raises OSError."""
        self._find()
        text = json.dumps(data, separators=(",", ":")).encode()
        if records and (self.dropped or self._length() + len(text) + len(records) > self.limit):
            self.dropped += len(records) // RECORD
            return
        chunk = packed(kind, os.getpid() if pid is None else pid, text, records)
        if os.write(self._fd, chunk) < len(chunk):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _find(self) -> None:
        """Opens the file again where the program has closed its descriptor, as daemons close all that they
        find: what is open under that number then is none of ours."""
        try:
            if _identity(os.fstat(self._fd)) == self._file:
                return
        except OSError:
            pass
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._file = _identity(os.fstat(self._fd))

    def _length(self) -> int:
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        os.close(self._fd)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


class Reader:
    """Reads chunks, one after the other. Afterwards `truncated` says whether the file ends within one,
    `damaged` how many stretches between two chunks were passed over, `unknown` how many chunks are of a kind
    that this version does not have, or hold no JSON."""

    def __init__(self, path: Path | str) -> None:
        self.path = str(path)
        self.truncated = False
        self.damaged = self.unknown = 0

    def __iter__(self) -> Iterator[Chunk]:
        """Raises BadRecording, OSError."""
        with open(self.path, "rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise BadRecording(self.path, "this is no recording of clonal record")
            at, end = 0, os.fstat(file.fileno()).st_size
            while at < end:
                found = _chunk(file, at, end)
                if found is None:
                    at = self._next(file, at + 1, end)
                    continue
                kind, pid, text, records = found
                at += HEADER.size + len(text) + len(records)
                try:
                    chunk = Chunk(Kind(kind), pid, json.loads(text), records)
                except (ValueError, RecursionError):
                    self.unknown += 1
                    continue
                yield chunk

    def _next(self, file: BinaryIO, at: int, end: int) -> int:
        """Where the next whole chunk begins; the end if there is none."""
        for place in _places(file, at, end):
            if _chunk(file, place, end) is not None:
                self.damaged += 1
                return place
        self.truncated = True
        return end


def _places(file: BinaryIO, at: int, end: int) -> Iterator[int]:
    """Wherever there is a MAGIC."""
    while at < end:
        file.seek(at)
        block = file.read(BLOCK + len(MAGIC) - 1)
        found = block.find(MAGIC)
        while 0 <= found < BLOCK:
            yield at + found
            found = block.find(MAGIC, found + 1)
        at += BLOCK


def _chunk(file: BinaryIO, at: int, end: int) -> tuple[int, int, bytes, bytes] | None:
    """The kind, process, JSON and records of the chunk at this place, None if there is no whole one."""
    file.seek(at)
    header = file.read(HEADER.size)
    if len(header) < HEADER.size or header[: len(MAGIC)] != MAGIC:
        return None
    _, kind, _, text_length, records_length, _, pid = HEADER.unpack(header)
    if at + HEADER.size + text_length + records_length > end:
        return None
    text, records = file.read(text_length), file.read(records_length)
    whole = header + text + records == packed(kind, pid, text, records)
    return (kind, pid, text, records) if whole else None
