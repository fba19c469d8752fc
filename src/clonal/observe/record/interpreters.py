"""Which interpreter a process runs and where it is, and names of C functions: by its mappings and files."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import NamedTuple

from clonal.kernel import procfs
from clonal.kernel.procfs import PAGE, Vma
from clonal.observe.record.elf import Symbols
from clonal.observe.record.layout import layout_of, spelled
from clonal.observe.record.remote import Memory, Objects

RUNTIME, VERSION, TYPES = "_PyRuntime", "Py_Version", ("PyType_Type", "PyCode_Type", "PyUnicode_Type")


class Interpreter(NamedTuple):
    """Of a process: what the eBPF program needs of it, and what reads its objects."""

    version: str
    known: bytes  # struct python of _bpf/event.h
    objects: Objects


class Files:
    """Symbol tables of programs and libraries, each read once."""

    def __init__(self) -> None:
        self._tables: dict[tuple[str, int], Symbols | None] = {}

    def symbols(self, pids: Sequence[int], vma: Vma) -> Symbols | None:
        """Of a mapped file, as one of these processes sees it; None where it cannot be read."""
        key = (vma.dev, vma.inode)
        if key not in self._tables:
            path = vma.path.removesuffix(" (deleted)")
            self._tables[key] = _first([*(f"/proc/{pid}/root{path}" for pid in pids), path])
        return self._tables[key]

    def function(self, pids: Sequence[int], vma: Vma, address: int) -> str:
        """The C function that holds an address of a process, "" if it has no name."""
        table = self.symbols(pids, vma)
        at = table.address(address - vma.start + vma.offset) if table else None
        return table.at(at) if table and at is not None else ""

    def program(self, path: str, start: int, end: int) -> Vma | None:
        """The mapping of a program's code that was executed, by where the kernel says that it begins and ends
        (fs/binfmt_elf.c start_code)."""
        found = _first([path])
        code = next((segment for segment in found.segments if segment.code), None) if found else None
        if code is None:
            return None
        made = os.stat(path)
        dev = f"{os.major(made.st_dev):02x}:{os.minor(made.st_dev):02x}"
        self._tables[dev, made.st_ino] = found
        first, offset = start // PAGE * PAGE, code.offset // PAGE * PAGE
        return Vma(first, -(-end // PAGE) * PAGE, "r-xp", offset, dev, made.st_ino, path)

    def interpreter(self, pid: int, vmas: Sequence[Vma]) -> Interpreter | None:
        """The one that this process has mapped, None if there is none, or none that is known."""
        for vma in _candidates(pid, vmas):
            table = self.symbols([pid], vma)
            found = table.find(RUNTIME, VERSION, *TYPES) if table else {}
            if table and len(found) == 2 + len(TYPES) and (shift := _shift(table, vma)) is not None:
                return _made(pid, {name: at + shift for name, at in found.items()})
        return None


def _first(paths: Sequence[str]) -> Symbols | None:
    for path in paths:
        try:
            return Symbols(path)
        except (OSError, ValueError, struct.error):
            continue
    return None


def _candidates(pid: int, vmas: Sequence[Vma]) -> list[Vma]:
    """The first mapping of the program, and of libraries that are named for Python."""
    try:
        program = os.readlink(f"/proc/{pid}/exe")
    except OSError:
        program = ""
    found: dict[str, Vma] = {}
    for vma in vmas:
        name = vma.path.rpartition("/")[2]
        if vma.offset == 0 and (vma.path == program or name.startswith(("libpython", "python"))):
            found.setdefault(vma.path, vma)
    return list(found.values())


def _shift(table: Symbols, vma: Vma) -> int | None:
    """What is added to the file's addresses in this process."""
    at = table.address(0)
    return None if at is None else vma.start - at


def _made(pid: int, at: dict[str, int]) -> Interpreter | None:
    memory = Memory([pid])
    try:
        words = memory.read(at[VERSION], 8)
    finally:
        memory.close()
    version = struct.unpack("<Q", words)[0] if words else 0
    layout = layout_of(version)
    if layout is None:
        return None
    objects = Objects(layout, version, *(at[name] for name in TYPES))
    return Interpreter(spelled(version), layout.packed(at[RUNTIME]), objects)


def mappings(pid: int, known: str = "") -> tuple[str, list[Vma]]:
    """/proc/PID/maps as text, and parsed; empty if the process has ended, or they are as `known`. Of one that
    ends while it is read only a part may have come: then its program is gone, too."""
    try:
        content = procfs.read("maps", pid)
        os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return "", []
    text = content.decode("utf-8", "replace")
    return ("", []) if text == known else (text, procfs.parse_maps(content))
