"""Names of addresses in programs and libraries, from the symbol tables of their files (elf.h)."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

_MAGIC = b"\x7fELF\x02\x01"  # 64 bits, little endian
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")  # p_type, p_flags, p_offset, p_vaddr, p_paddr, p_filesz, …
_SECTION = struct.Struct("<IIQQQQIIQQ")  # sh_name, sh_type, sh_flags, sh_addr, sh_offset, sh_size, sh_link, …
_SYMBOL = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("value", "<u8"), ("size", "<u8")]
)
_EXECUTABLE = 1  # PF_X
_LOAD, _SYMTAB, _DYNSYM = 1, 2, 11
_OBJECT, _FUNC, _IFUNC = 1, 2, 10
MOST = 256 << 20  # bytes of a table that are read


class Segment(NamedTuple):
    """A part of the file that is mapped."""

    offset: int
    address: int
    size: int
    code: bool


class Symbols:
    """Of one file. Raises OSError, ValueError where it is no ELF file of this machine's kind."""

    def __init__(self, path: str) -> None:
        with open(path, "rb") as file:
            head = file.read(_HEADER.size)
            if len(head) < _HEADER.size or not head.startswith(_MAGIC):
                raise ValueError(f"{path} is no ELF file")
            _, _, _, _, _, segments, sections, _, _, size, count, each, number, _ = _HEADER.unpack(head)
            self.segments = _segments(file, segments, size, count)
            tables = _sections(file, sections, each, number)
            found, names = _best(file, tables)
        named = found[(found["section"] != 0) & np.isin(found["info"] & 15, (_OBJECT, _FUNC, _IFUNC))]
        self._data = named
        code = named[(named["info"] & 15 != _OBJECT) & (named["value"] > 0)]
        self._code = code[np.argsort(code["value"], kind="stable")]
        self._names = names

    def address(self, offset: int) -> int | None:
        """Where a byte of the file is, as the file has it."""
        for segment in self.segments:
            if segment.offset <= offset < segment.offset + segment.size:
                return segment.address + offset - segment.offset
        return None

    def at(self, address: int) -> str:
        """The function that holds an address of the file, "" if none has a name."""
        index = int(np.searchsorted(self._code["value"], np.uint64(address), "right")) - 1
        if index < 0:
            return ""
        found = self._code[index]
        inside = address < int(found["value"]) + max(int(found["size"]), 1)
        return self._name(int(found["name"])) if inside else ""

    def find(self, *wanted: str) -> dict[str, int]:
        """Addresses of these names, in the file."""
        found: dict[str, int] = {}
        for name in wanted:
            at = self._names.find(b"\0" + name.encode() + b"\0") + 1
            rows = self._data[self._data["name"] == at] if at else self._data[:0]
            if len(rows):
                found[name] = int(rows["value"][0])
        return found

    def _name(self, at: int) -> str:
        return self._names[at : self._names.index(b"\0", at)].decode(errors="replace")


def _segments(file: Any, offset: int, size: int, count: int) -> list[Segment]:
    file.seek(offset)
    table = file.read(size * count)
    each = [_SEGMENT.unpack_from(table, at * size) for at in range(len(table) // size if size else 0)]
    return [
        Segment(at, address, length, bool(flags & _EXECUTABLE))
        for kind, flags, at, address, _, length, _, _ in each
        if kind == _LOAD
    ]


def _sections(file: Any, offset: int, size: int, count: int) -> list[tuple[int, ...]]:
    file.seek(offset)
    table = file.read(size * count)
    return [_SECTION.unpack_from(table, at * size) for at in range(len(table) // size if size else 0)]


def _best(file: Any, tables: list[tuple[int, ...]]) -> tuple[npt.NDArray[Any], bytes]:
    """The whole table where the file has it, else that of what it offers to others."""
    for kind in (_SYMTAB, _DYNSYM):
        for section in tables:
            if section[1] == kind and section[6] < len(tables):
                entries, names = _content(file, section), _content(file, tables[section[6]])
                return np.frombuffer(entries, _SYMBOL, len(entries) // _SYMBOL.itemsize), names
    return np.empty(0, _SYMBOL), b"\0"


def _content(file: Any, section: tuple[int, ...]) -> bytes:
    file.seek(section[4])
    return bytes(file.read(min(section[5], MOST)))
