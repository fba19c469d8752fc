"""The other threads of this process as the kernel sees them, and which library each belongs to.

A native thread has no name that tells its owner, but it sleeps in a system call whose stack
pointer /proc shows. The return addresses above it lead through libc to the library that called:
the first executable file on the stack that is not libc is the owner. A thread that is running
shows no stack pointer; its stack is the one whose top (glibc's `struct pthread`) holds its tid, and
the outermost code address there, the routine it was started with, is in its owner.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import PurePath

from clonal.kernel import procfs
from clonal.kernel.procfs import Vma

SETTLE = (
    0.001,
    0.002,
    0.004,
)  # seconds given to a thread that was joined but has not left the kernel yet
THREAD_STRUCT = 4096  # glibc puts its struct pthread (2.3 KB) at the very top of a stack
STACK_READ = (8 << 10, 64 << 10)  # most owners are found in the first part
ADDRESS_BITS = (1 << 48) - 1  # arm64 may sign return addresses in the bits above
PLUMBING = (
    "libc.so",
    "libc-",
    "ld-linux",
    "libpthread",
    "libstdc++",
    "libgcc_s",
    "libm.so",
    "[vdso]",
)


@dataclass(frozen=True)
class Task:
    tid: int
    comm: str
    state: str  # one letter, as in /proc/TID/stat
    wchan: str
    stack: Vma | None  # the mapping its stack pointer is in
    owner: str  # path of the library it runs in, "" if not known

    @property
    def library(self) -> str:
        return PurePath(self.owner).name

    def describe(self) -> str:
        where = f" of {self.library}" if self.owner else ""
        doing = f", in {self.wchan}" if self.wchan not in ("", "0") else ""
        return f"{self.comm!r} (tid {self.tid}{doing}){where}"


def read(name: str) -> str:
    """A file of /proc/self as text; "" where it is gone, hidden or not offered by this kernel."""
    try:
        return procfs.read(name).decode(errors="replace")
    except OSError:
        return ""


@dataclass
class AddressSpace:
    """Answers which mapping an address lies in."""

    maps: list[Vma] = field(default_factory=procfs.maps)

    def __post_init__(self) -> None:
        self._starts = [one.start for one in self.maps]
        code = [one for one in self.maps if "x" in one.perms and one.path.startswith("/")]
        self.lowest_code = code[0].start if code else 0
        self.highest_code = code[-1].end if code else 0

    def at(self, address: int) -> Vma | None:
        index = bisect_right(self._starts, address) - 1
        if index < 0 or address >= self.maps[index].end:
            return None
        return self.maps[index]

    def callers(self, words: Iterator[int]) -> Iterator[str]:
        """The files that the code addresses among these stack words lie in, innermost first."""
        for word in words:
            address = word & ADDRESS_BITS
            if self.lowest_code <= address < self.highest_code:
                found = self.at(address)
                if found and "x" in found.perms and found.path.startswith("/"):
                    yield found.path


def is_plumbing(path: str) -> bool:
    return PurePath(path).name.startswith(PLUMBING)


def other_tasks(space: AddressSpace) -> list[Task]:
    """Every thread but the calling one. One that is just ending is waited for, not reported."""
    tids = _tids()
    for seconds in SETTLE:
        if not any(_ending(tid) for tid in tids):
            break
        time.sleep(seconds)
        tids = _tids()
    return [_task(tid, space) for tid in tids]


def _tids() -> list[int]:
    own = threading.get_native_id()
    try:
        return sorted(tid for tid in map(int, os.listdir("/proc/self/task")) if tid != own)
    except OSError:
        return []


def _ending(tid: int) -> bool:
    """Running while we hold the interpreter lock, and no thread that Python knows."""
    if read(f"task/{tid}/syscall").strip() not in ("running", ""):
        return False
    return tid not in {thread.native_id for thread in threading.enumerate()}


def _task(tid: int, space: AddressSpace) -> Task:
    where = f"task/{tid}/"
    stat = read(where + "stat").rpartition(")")[2].split()
    registers = read(where + "syscall").split()
    pointer = int(registers[-2], 16) if len(registers) >= 3 else 0
    stack = space.at(pointer) if pointer else _stack_holding(tid, space)
    return Task(
        tid=tid,
        comm=read(where + "comm").strip(),
        state=stat[0] if stat else "",
        wchan=read(where + "wchan").strip(),
        stack=stack,
        owner=_owner(pointer, stack, space) if stack else "",
    )


def _owner(pointer: int, stack: Vma, space: AddressSpace) -> str:
    for size in STACK_READ:
        if pointer:
            words = stack_words(pointer, min(size, stack.end - pointer))
        else:
            words = stack_words(max(stack.start, stack.end - size), size)[::-1]
        for path in space.callers(iter(words)):
            if not is_plumbing(path):
                return path
    return ""


def _stack_holding(tid: int, space: AddressSpace) -> Vma | None:
    """The mapping above a guard whose last page holds this thread id."""
    wanted = struct.pack("@i", tid)
    for guard, stack in pairwise(space.maps):
        if guard.perms.startswith("---") and stack.perms.startswith("rw") and not stack.path:
            top = own_memory(stack.end - THREAD_STRUCT, THREAD_STRUCT)
            if any(top[at : at + 4] == wanted for at in range(0, len(top), 4)):
                return stack
    return None


def stack_words(address: int, size: int) -> tuple[int, ...]:
    """Memory of this process as machine words; empty where it cannot be read."""
    data = own_memory(address, size)
    return struct.unpack(f"@{len(data) // 8}Q", data[: len(data) // 8 * 8])


def own_memory(address: int, size: int) -> bytes:
    """Bytes at an address, read through /proc: a bad address is an error there, not a crash."""
    try:
        file = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.pread(file, size, address)
    except (OSError, OverflowError):
        return b""
    finally:
        os.close(file)
