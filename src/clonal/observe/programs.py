"""How far a program's or a library's data reaches, by its own file."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable

from clonal.kernel.procfs import PAGE, Vma

# ELF-64 (elf.h Elf64_Ehdr, Elf64_Phdr)
_MAGIC = b"\x7fELF\x02"
_HEADER = 64
_SEGMENTS = struct.Struct(
    "<QQIHHH"
)  # from byte 32: e_phoff, e_shoff, e_flags, e_ehsize, e_phentsize, e_phnum
_SEGMENT = struct.Struct(
    "<IIQQQQQQ"
)  # p_type, p_flags, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
_LOAD = 1
_MOST = 64 * _SEGMENT.size

Cache = dict[tuple[str, int], int | None]


def extents(pid: int, cache: Cache) -> Callable[[Vma], int | None]:
    """A function that says, of the first mapping of a program in this process, how many bytes later its data
    ends; None where its file cannot be read. `cache` may be shared by processes."""

    def extent(vma: Vma) -> int | None:
        key = (vma.dev, vma.inode)
        if key not in cache:
            cache[key] = _extent(f"/proc/{pid}/root{vma.path}") or _extent(vma.path)
        return cache[key]

    return extent


def extent_here(vma: Vma) -> int | None:
    """The same by the files that there are now, of a process that may have ended."""
    return _extent_of(vma.path)


def _extent(path: str) -> int | None:
    try:
        with open(path, "rb", buffering=0) as file:
            head = file.read(_HEADER)
            if not head.startswith(_MAGIC):
                return None
            offset, _, _, _, size, count = _SEGMENTS.unpack_from(head, 32)
            file.seek(offset)
            table = file.read(min(size * count, _MOST))
    except (OSError, ValueError, struct.error):
        return None
    return _span(table, size) if size == _SEGMENT.size else None


def _span(table: bytes, size: int) -> int | None:
    """From the page of the lowest address to the end of the page of the highest."""
    segments = [_SEGMENT.unpack_from(table, at) for at in range(0, len(table) - size + 1, size)]
    loaded = [
        (address, address + memory) for kind, _, _, address, _, _, memory, _ in segments if kind == _LOAD
    ]
    if not loaded:
        return None
    first, last = min(loaded)[0] // PAGE, -(-max(end for _, end in loaded) // PAGE)
    span: int = (last - first) * PAGE
    return span


_extent_of = functools.lru_cache(maxsize=4096)(_extent)
