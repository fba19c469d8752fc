"""A recording: one file that many processes append to, readable up to the last whole chunk.

A chunk is a header and a payload, written by one write(2) to a file opened with O_APPEND, so chunks of
different processes never mix (fs/read_write.c, inode lock), and what a killed process had written stays. The
payload is compact JSON; that of FAULTS is followed by records of the C struct `fault` (_native/trap.h).
"""

from __future__ import annotations

import enum
import json
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from clonal.errors import Error

MAGIC = b"CLR1"
HEADER = struct.Struct("<4sHHIIIQ")  # magic, kind, spare, bytes of JSON, bytes of records, CRC of both, pid
RECORD = 40
LIMIT = 512 << 20  # bytes; what does not fit is counted


class Kind(enum.IntEnum):
    """What a chunk holds."""

    BEGIN = 1  # of the recording: command, machine, time, backend
    PROCESS = 2  # a process that is recorded from now on
    FAULTS = 3
    END = 4  # of a process, or with pid 0 of the recording


class BadRecording(Error):
    """A file that is no recording."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}", path=path, why=why)


class Chunk(NamedTuple):
    kind: Kind
    pid: int
    data: dict[str, Any]
    records: bytes


class Writer:
    """Appends chunks. Safe in any number of processes; what would make the file longer than `limit` is
    dropped, and `dropped` says how many records that were."""

    def __init__(self, path: str, limit: int = LIMIT) -> None:
        self.path, self.limit = path, limit
        self.dropped = 0
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, kind: Kind, data: dict[str, Any], records: bytes = b"", pid: int | None = None) -> None:
        """Raises OSError."""
        text = json.dumps(data, separators=(",", ":")).encode()
        if records and os.fstat(self._fd).st_size + len(text) + len(records) > self.limit:
            self.dropped += len(records) // RECORD
            return
        check = zlib.crc32(records, zlib.crc32(text))
        owner = os.getpid() if pid is None else pid
        os.write(
            self._fd, HEADER.pack(MAGIC, kind, 0, len(text), len(records), check, owner) + text + records
        )

    def close(self) -> None:
        os.close(self._fd)


class Reader:
    """Reads chunks, one after the other. `truncated` says afterwards whether the file ended within one."""

    def __init__(self, path: Path | str) -> None:
        self.path = str(path)
        self.truncated = False

    def __iter__(self) -> Iterator[Chunk]:
        """Raises BadRecording, OSError."""
        with open(self.path, "rb") as file:
            first = file.read(len(MAGIC))
            if first != MAGIC:
                raise BadRecording(self.path, "this is no recording of clonal record")
            file.seek(0)
            while header := file.read(HEADER.size):
                chunk = self._chunk(header, file.read)
                if chunk is None:
                    self.truncated = True
                    return
                yield chunk

    def _chunk(self, header: bytes, read: Any) -> Chunk | None:
        if len(header) < HEADER.size:
            return None
        magic, kind, _, text_length, records_length, check, pid = HEADER.unpack(header)
        text, records = read(text_length), read(records_length)
        if magic != MAGIC or len(text) < text_length or len(records) < records_length:
            return None
        if zlib.crc32(records, zlib.crc32(text)) != check:
            return None
        return Chunk(Kind(kind), pid, json.loads(text), records)
