"""Objects of another process: code objects and types, read from its memory.

By /proc/PID/mem: process_vm_readv pins what it reads, which copies pages that are shared (mm/gup.c
gup_must_unshare). What is read may be gone or be written to meanwhile: all of it is checked.
"""

from __future__ import annotations

import bisect
import os
import struct
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from clonal.observe.record.layout import Layout

COUNTS = 1 << 32  # no reference count is above, nor is an immortal one
LINES = 3120 - 33  # bytes of a longer table that the eBPF program keeps (_bpf/event.h)
TEXT, TABLE = 4096, 1 << 20  # bytes of a name, and of a table of lines, at most
# Include/object.h: flags of types
HEAPTYPE, READY, HAVE_GC, SUBCLASS = 1 << 9, 1 << 12, 1 << 14, 1 << 31
MANAGED_WEAKREF, MANAGED_DICT = 1 << 3, 1 << 4  # the first from 3.12 on


class Seen:
    """Pieces of memory as they were once."""

    def __init__(self) -> None:
        self._addresses: list[int] = []
        self._pieces: dict[int, bytes] = {}

    def add(self, address: int, piece: bytes) -> None:
        if address not in self._pieces:
            bisect.insort(self._addresses, address)
        self._pieces[address] = piece

    def read(self, address: int, size: int) -> bytes | None:
        index = bisect.bisect_right(self._addresses, address) - 1
        if index < 0:
            return None
        start = address - self._addresses[index]
        found = self._pieces[self._addresses[index]][start : start + size]
        return found if len(found) == size else None


class Reads(Protocol):
    """What has memory."""

    def read(self, address: int, size: int) -> bytes | None: ...


class Memory:
    """That of a process, and where it is gone already that of others with the same objects at the same
    places: a forked process has its parent's. Close it."""

    def __init__(self, pids: Iterable[int], seen: Seen | None = None) -> None:
        self._pids = list(pids)
        self._open: list[int] = []
        self.ways: tuple[Reads, ...] = (self, seen) if seen else (self,)  # to come by an object, best first

    def read(self, address: int, size: int) -> bytes | None:
        for number in range(len(self._pids)):
            try:
                found = os.pread(self._fd(number), size, address)
            except (OSError, OverflowError):
                continue
            if len(found) == size:
                return found
        return None

    def _fd(self, number: int) -> int:
        while len(self._open) <= number:
            try:
                fd = os.open(f"/proc/{self._pids[len(self._open)]}/mem", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                fd = -1
            self._open.append(fd)
        return self._open[number]

    def close(self) -> None:
        for fd in self._open:
            if fd >= 0:
                os.close(fd)
        self._open = []


class Code(NamedTuple):
    """A code object; of its lines, where each begins, in code units, and which it is."""

    words: bytes  # by which it is known again
    name: str
    file: str
    size: int  # code units
    starts: list[int]
    lines: list[int]

    def line(self, unit: int) -> int:
        """0: the instruction has none."""
        index = bisect.bisect_right(self.starts, unit) - 1
        return self.lines[index] if index >= 0 else 0


class Shape(NamedTuple):
    """What of a type decides where its objects begin."""

    name: str
    flags: int
    presize: int  # bytes before the object in its block (_PyType_PreHeaderSize)
    size: int


class Objects:
    """Those of one interpreter: where its types `type`, `code` and `str` are, and what has been read."""

    def __init__(self, layout: Layout, version: int, type_: int, code: int, string: int) -> None:
        self.layout = layout
        self._preheader = MANAGED_DICT | (MANAGED_WEAKREF if version >= 0x030C0000 else 0)
        self.type, self.code, self.string = type_, code, string
        self._codes: dict[int, Code] = {}
        self._shapes: dict[int, Shape | None] = {}

    def code_at(self, memory: Memory, address: int) -> Code | None:
        """The code object there; if it has gone, the one that was read, or seen, there before."""
        for way in memory.ways:
            found = self._code_by(way, address)
            if found is not None or address in self._codes:
                return found or self._codes[address]
        return None

    def _code_by(self, memory: Reads, address: int) -> Code | None:
        layout, before = self.layout, self._codes.get(address)
        words = memory.read(address, layout.instructions)
        if words is None:
            return None
        count, kind, size = struct.unpack_from("<QQQ", words)
        if not 0 < count < COUNTS or kind != self.code:
            return None
        known = words[16:24] + words[layout.first_line : layout.line_table + 8]
        if before is not None and before.words == known:
            return before
        found = self._read_code(memory, words, known, size)
        if found is not None:
            self._codes[address] = found
        return found

    def _read_code(self, memory: Reads, words: bytes, known: bytes, size: int) -> Code | None:
        layout = self.layout
        file, name, table = (
            struct.unpack_from("<Q", words, at)[0]
            for at in (layout.file_name, layout.qualified_name, layout.line_table)
        )
        texts = [self._text(memory, address) for address in (name, file)]
        lines = self._bytes(memory, table)
        if None in texts or lines is None:
            return None
        (first,) = struct.unpack_from("<i", words, layout.first_line)
        return Code(known, texts[0] or "?", texts[1] or "?", size, *decode_lines(lines, first))

    def _text(self, memory: Reads, address: int) -> str | None:
        """A str: compact, as all are that are made of source."""
        head = memory.read(address, self.layout.ascii)
        if head is None:
            return None
        kind_of, length, _, state = struct.unpack_from("<QQQI", head, 8)
        width, ascii_ = state >> 2 & 7, state >> 6 & 1
        if kind_of != self.string or width not in (1, 2, 4) or length > TEXT:
            return None
        found = memory.read(address + (self.layout.ascii if ascii_ else self.layout.compact), length * width)
        return None if found is None else found.decode(ENCODINGS[width], "replace")

    def _bytes(self, memory: Reads, address: int) -> bytes | None:
        head = memory.read(address, 24)
        size = struct.unpack_from("<Q", head, 16)[0] if head else TABLE
        if size >= TABLE:
            return None
        whole = memory.read(address + self.layout.data, size)
        return memory.read(address + self.layout.data, LINES) if whole is None else whole

    def shape(self, memory: Memory, address: int) -> Shape | None:
        """The type there; None if it is none. One that was made by the program may have gone since."""
        before = self._shapes.get(address)
        if before is not None and not before.flags & HEAPTYPE:
            return before
        if not address or address & 7:
            return None
        for way in memory.ways:
            if (found := self._read_shape(way, address)) is not None:
                self._shapes[address] = found
                return found
        return None

    def _read_shape(self, memory: Reads, address: int) -> Shape | None:
        layout = self.layout
        words = memory.read(address, layout.type_flags + 8)
        if words is None:
            return None
        kind, name, size, flags = (
            struct.unpack_from("<Q", words, at)[0]
            for at in (8, layout.type_name, layout.type_size, layout.type_flags)
        )
        if not flags & READY or not 16 <= size <= 1 << 20 or not self._is_metatype(memory, kind):
            return None
        presize = (16 if flags & HAVE_GC else 0) + (16 if flags & self._preheader else 0)
        if address == self.string:
            size = layout.ascii  # short strings are shorter than their type says
        return Shape(self._c_text(memory, name), flags, presize, size)

    def _is_metatype(self, memory: Reads, kind: int) -> bool:
        if kind == self.type:
            return True
        words = memory.read(kind, self.layout.type_flags + 8) if kind and not kind & 7 else None
        if words is None or struct.unpack_from("<Q", words, 8)[0] != self.type:
            return False
        return bool(struct.unpack_from("<Q", words, self.layout.type_flags)[0] & SUBCLASS)

    def _c_text(self, memory: Reads, address: int) -> str:
        """Up to its zero; a shorter piece where its page is the last one mapped."""
        for size in (256, 64, 16):
            if (found := memory.read(address, size)) is not None:
                return found.partition(b"\0")[0].decode(errors="replace")
        return ""


ENCODINGS = {1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}


def decode_lines(table: bytes, first: int) -> tuple[list[int], list[int]]:
    """Where each line begins, in code units, and which it is; 0 where there is none (Objects/locations.md of
    CPython, 3.11 and later)."""
    starts, lines = [], []
    unit, line, at = 0, first, 0
    while at < len(table):
        kind, length = table[at] >> 3 & 15, (table[at] & 7) + 1
        at += 1
        if kind in (13, 14):
            delta, at = _signed(table, at)
        else:
            delta = kind - 10 if 10 <= kind <= 12 else 0
        line += delta
        while at < len(table) and not table[at] & 128:  # columns, and the last line
            at += 1
        starts.append(unit)
        lines.append(0 if kind == 15 else line)
        unit += length
    return starts, lines


def _signed(table: bytes, at: int) -> tuple[int, int]:
    """A number in groups of 6 bits, the lowest first; bit 6 of each says that more follow."""
    value, shift = 0, 0
    while at < len(table):
        value |= (table[at] & 63) << shift
        shift += 6
        at += 1
        if not table[at - 1] & 64:
            break
    return (-(value >> 1) if value & 1 else value >> 1), at
