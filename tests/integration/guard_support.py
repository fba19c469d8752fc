"""What guard tests need inside the process under test: private memory made image by hand.

A whole freeze moves the memory of the test as well; `Region.to_image` moves one range and nothing
else, so that a test knows exactly what is image.
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from typing import NoReturn

from clonal.image import guards

PAGE = os.sysconf("SC_PAGESIZE")
SKIPPED = 77  # exit status
FILL = 0x5A

PROT_READ, PROT_WRITE = 1, 2
MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS = 1, 2, 0x10, 0x20
MAYMOVE, FIXED, DONTUNMAP = 1, 2, 4
DONTNEED, FREE, REMOVE, DONTFORK, MERGEABLE, WIPEONFORK = 4, 8, 9, 10, 12, 18
DONTNEED_LOCKED, GUARD_INSTALL, GUARD_REMOVE = 24, 102, 103
RW = PROT_READ | PROT_WRITE

#: By dlsym, so never redirected: these always reach the kernel.
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

calls = ctypes.CDLL(os.environ["GUARD_CALLS"])
for _call in (calls.call_madvise, calls.call_mremap, calls.call_process_madvise, calls.call_syscall):
    _call.restype = ctypes.c_long
calls.call_madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
calls.call_mremap.argtypes = [*[ctypes.c_size_t] * 3, ctypes.c_int, ctypes.c_size_t]
calls.call_process_madvise.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
calls.call_syscall.argtypes = [ctypes.c_long] * 7


def mmap(address: int, length: int, prot: int, flags: int, fd: int = -1, offset: int = 0) -> int:
    got = _libc.mmap(address, length, prot, flags, fd, offset)
    if got in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "mmap")
    return int(got)


def munmap(address: int, length: int) -> None:
    assert _libc.munmap(address, length) == 0


def mprotect(address: int, length: int, prot: int) -> None:
    assert _libc.mprotect(address, length, prot) == 0


def madvise(address: int, length: int, advice: int) -> int:
    return int(calls.call_madvise(address, length, advice))


def mremap(old: int, old_length: int, new_length: int, flags: int = 0, new: int = 0) -> int:
    return int(calls.call_mremap(old, old_length, new_length, flags, new))


def syscall(number: int, *args: int) -> int:
    return int(calls.call_syscall(number, *args, *[0] * (6 - len(args))))


@dataclass
class Region:
    """Private memory of `pages` pages full of FILL, between two unmapped ones."""

    start: int
    length: int
    fd: int = -1

    @classmethod
    def filled(cls, pages: int, room: int = 1) -> Region:
        """`room` pages after it stay unmapped."""
        span = mmap(0, (pages + room + 1) * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS)
        region = cls(span + PAGE, pages * PAGE)
        ctypes.memset(region.start, FILL, region.length)
        munmap(span, PAGE)
        munmap(region.end, room * PAGE)
        return region

    @property
    def end(self) -> int:
        return self.start + self.length

    def to_image(self, first: int = 0, pages: int | None = None) -> Region:
        """Make its pages image (or `pages` of them from `first`), as a freeze would."""
        start = self.start + first * PAGE
        length = self.length - first * PAGE if pages is None else pages * PAGE
        self.fd = os.memfd_create("clonal-image")
        os.ftruncate(self.fd, 1 << 47)
        os.pwrite(self.fd, ctypes.string_at(start, length), start)
        mmap(start, length, RW, MAP_PRIVATE | MAP_FIXED, self.fd, start)
        return self

    def bytes(self, first: int = 0, pages: int | None = None) -> bytes:
        return ctypes.string_at(self.start + first * PAGE, self.length if pages is None else pages * PAGE)

    def write(self, value: int, first: int = 0, pages: int = 1) -> None:
        ctypes.memset(self.start + first * PAGE, value, pages * PAGE)

    def file_bytes(self) -> int:
        """Memory that the image's file holds, whether or not anyone can reach it."""
        return os.fstat(self.fd).st_blocks * 512

    def kinds(self) -> str:
        """One letter a page: i image, a anonymous, s shared, - unmapped."""
        return kinds(self.start, self.end)


def kinds(start: int, end: int) -> str:
    letters = ["-"] * ((end - start) // PAGE)
    with open("/proc/self/maps") as lines:
        for line in lines:
            low, high = (int(part, 16) for part in line.split()[0].split("-"))
            letter = "s" if line.split()[1][3] == "s" else "i" if "memfd:clonal-image" in line else "a"
            for at in range(max(low, start), min(high, end), PAGE):
                letters[(at - start) // PAGE] = letter
    return "".join(letters)


def guard(*disable: str) -> None:
    """Put the guards up around the image as it is now."""
    assert not [note for note in guards.install(disable) if "switched off" not in note]
    guards.refresh()


def in_child(work: object) -> str:
    """What `work()` returns in a forked child, as text."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, repr(work()).encode())  # type: ignore[operator]
        os._exit(0)
    os.close(write)
    with open(read, "rb") as answer:
        text = answer.read().decode()
    assert os.waitpid(pid, 0)[1] == 0
    return text


ZERO = bytes(PAGE)
FULL = bytes([FILL]) * PAGE
EINVAL, ENOMEM, EFAULT, EACCES = -22, -12, -14, -13


def image_bytes() -> int:
    """Bytes of all image mappings: grows if an image mapping is extended."""
    with open("/proc/self/maps") as lines:
        ends = [line.split()[0].split("-") for line in lines if "memfd:clonal-image" in line]
    return sum(int(high, 16) - int(low, 16) for low, high in ends)


def status_bytes(field: str) -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field + ":"))


def skip(reason: str) -> NoReturn:
    """End the process; the test is skipped for this reason."""
    print(reason)
    sys.exit(SKIPPED)
