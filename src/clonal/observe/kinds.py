"""What memory is for, by the mappings alone: code, data, heaps, stacks, files.

Which anonymous mappings hold Python objects is found by what is in them: see pools.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

from clonal.kernel.procfs import Vma


class MemoryKind(StrEnum):
    """What a page is for."""

    OBJECTS = "python objects"
    MALLOC = "malloc heap"
    BUFFERS = "large buffers"
    DATA = "library data"
    CODE = "code"
    IMAGE = "image"
    STACK = "stack"
    CACHE = "page cache"
    SHARED = "shared memory"
    OTHER = "other"


KINDS = tuple(MemoryKind)
IMAGE_PATH = "/memfd:clonal-image"
HEAP_SPAN = 64 << 20  # HEAP_MAX_SIZE of glibc's further arenas (malloc/arena.c), to which they are aligned
LARGE = 128 << 10  # M_MMAP_THRESHOLD of glibc: what malloc takes from mmap
GUARD = 1 << 20  # at most, of a thread's stack
LEAST_STACK = 16 << 10  # PTHREAD_STACK_MIN (bits/pthread_stack_min.h)
_MEMORY_FILES = ("/dev/shm/", "/memfd:", "/SYSV", "/dev/zero", "/anon_hugepage")
_NAMED = {"stack": MemoryKind.STACK, "obmalloc": MemoryKind.OBJECTS, "malloc": MemoryKind.MALLOC}


class Region(NamedTuple):
    """A run of pages of one kind, inside one mapping. `unsure`: anonymous memory whose kind is taken from
    its size. `filed`: a private mapping of a file, whose anonymous pages are copies. `vma` is the index of
    the mapping."""

    start: int
    end: int
    kind: MemoryKind
    name: str
    vma: int
    unsure: bool = False
    filed: bool = False

    @property
    def size(self) -> int:
        return self.end - self.start


Extent = Callable[[Vma], int | None]  # bytes from a program's first mapping to the end of its data


def classify(vmas: Sequence[Vma], extent: Extent = lambda _: None) -> list[Region]:
    """The mappings by kind, in order of address."""
    programs = {(vma.dev, vma.inode) for vma in vmas if vma.inode and "x" in vma.perms}
    found: list[Region] = []
    ends: dict[tuple[str, int], int] = {}  # where each program's data ends
    for index, (before, vma, after) in enumerate(_neighbours(vmas)):
        key = (vma.dev, vma.inode)
        if key in programs:
            if key not in ends or vma.offset == 0:
                size = extent(vma) if vma.offset == 0 else None
                ends[key] = 0 if size is None else vma.start + size
            found.append(_of_program(index, vma, after))
        elif vma.anonymous:
            found += _anonymous(index, before, vma, after, found, ends)
        else:
            found.append(Region(vma.start, vma.end, _of_file(vma), vma.path, index, False, vma.private))
    return found


def _neighbours(vmas: Sequence[Vma]) -> Iterator[tuple[Vma | None, Vma, Vma | None]]:
    """Each mapping with those that touch it."""
    padded = [None, *vmas, None]
    for (before, vma), (_, after) in pairwise(pairwise(padded)):
        assert vma is not None
        yield (
            before if before and before.end == vma.start else None,
            vma,
            after if after and after.start == vma.end else None,
        )


def _of_program(index: int, vma: Vma, after: Vma | None) -> Region:
    """Code and constants, or data; read-only data that the linker has relocated (RELRO) lies before the
    writable data of the same file."""
    relocated = "x" not in vma.perms and vma.offset and after and after.writable and after.inode == vma.inode
    data = vma.private and (vma.writable or relocated)
    kind = MemoryKind.DATA if data else MemoryKind.CODE
    return Region(vma.start, vma.end, kind, vma.path, index, False, vma.private)


def _of_file(vma: Vma) -> MemoryKind:
    if vma.path.startswith(IMAGE_PATH):
        return MemoryKind.IMAGE
    if vma.path.startswith(_MEMORY_FILES):
        return MemoryKind.BUFFERS if vma.private else MemoryKind.SHARED
    if vma.path.startswith(("/dev/", "anon_inode:", "socket:")):
        return MemoryKind.OTHER  # a device's memory
    return MemoryKind.CACHE


def _anonymous(
    index: int,
    before: Vma | None,
    vma: Vma,
    after: Vma | None,
    found: Sequence[Region],
    ends: dict[tuple[str, int], int],
) -> list[Region]:
    """A mapping of no file, split where it goes on beyond a program's data that was zero at its start."""
    if vma.path:
        return [Region(vma.start, vma.end, _by_name(vma), vma.path, index)]
    if before is not None and found and found[-1].kind is MemoryKind.DATA and vma.writable:
        end = ends.get((before.dev, before.inode), 0) or vma.end
        end = min(max(end, vma.start), vma.end)
        parts = [Region(vma.start, end, MemoryKind.DATA, found[-1].name, index)]
        rest = vma._replace(start=end)
        return [part for part in (*parts, _by_place(index, None, rest, after)) if part.size]
    return [_by_place(index, before, vma, after)]


def _by_name(vma: Vma) -> MemoryKind:
    """[heap], [stack], and what a program has named by PR_SET_VMA_ANON_NAME, as newer glibc does."""
    if vma.path == "[heap]":
        return MemoryKind.MALLOC
    if vma.path.startswith("[anon_shmem"):
        return MemoryKind.SHARED
    if vma.path.startswith(("[stack", "[anon")):
        return next((kind for word, kind in _NAMED.items() if word in vma.path), MemoryKind.BUFFERS)
    return MemoryKind.OTHER  # [vdso], [vvar]


def _by_place(index: int, before: Vma | None, vma: Vma, after: Vma | None) -> Region:
    if not vma.writable:
        return Region(vma.start, vma.end, MemoryKind.OTHER, "", index)
    if _is_arena(vma, after):
        return Region(vma.start, vma.end, MemoryKind.MALLOC, "malloc arena", index)
    if before is not None and _is_guard(before) and vma.size >= LEAST_STACK:
        return Region(vma.start, vma.end, MemoryKind.STACK, "thread stack", index)
    kind = MemoryKind.BUFFERS if vma.size >= LARGE else MemoryKind.OTHER
    return Region(vma.start, vma.end, kind, "", index, unsure=True)


def _is_arena(vma: Vma, after: Vma | None) -> bool:
    """glibc reserves an arena's whole span and makes it writable as it grows (malloc/arena.c new_heap)."""
    if vma.start % HEAP_SPAN:
        return False
    return after is not None and after.perms == "---p" and after.end >= vma.start + HEAP_SPAN


def _is_guard(vma: Vma) -> bool:
    """The unreadable pages below a thread's stack (nptl/allocatestack.c setup_stack_prot)."""
    return vma.perms == "---p" and vma.anonymous and vma.size <= GUARD
