"""A trial clone: what does a clone always write, and why?

The forked child calls the warm function and waits; the parent then finds, in the child's pagemap, the
pages that were shared at the fork and are the child's own now, and compares each, word by word, with its
own copy. The words that differ say why: a reference count, a gc header, an object's data, a library's.
"""

from __future__ import annotations

import gc
import os
import sys
import traceback
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from clonal.errors import SetupFailed, describe_status
from clonal.kernel import procfs

WORD = 8
GC_HEADER_WORDS = 2
# A library's data of at most this many pages is left anonymous (hot) if a clone writes half of it.
SMALL_VMA_PAGES = 16
_PRESENT_ANON = bytes((flags & 0xA0) == 0x80 for flags in range(256))
_OWN_ANON = bytes((flags & 0xA1) == 0x81 for flags in range(256))


@dataclass(slots=True)
class Learnt:
    """`hot`: pages a clone wrote, by reason; `keep`: ranges to leave anonymous; `mortal`: (address,
    address of the type) of objects that reading wrote to although the heap is immortal."""

    hot: dict[str, int] = field(default_factory=dict)
    keep: list[tuple[int, int]] = field(default_factory=list)
    mortal: list[tuple[int, int]] = field(default_factory=list)


def learn(trial: Callable[[], Any]) -> Learnt:
    """Run `trial` in a forked child and find what it wrote. Raises `SetupFailed` with its traceback if it
    fails; this process is as before then."""
    vmas = [vma for vma in procfs.maps() if vma.private and vma.perms[:2] == "rw"]
    ranges = [(vma.start, vma.end) for vma in vmas]
    before = [_shared_pages(vma) for vma in vmas]
    pid, done, release = _start(trial)
    try:
        _await(pid, done)
        written = list(_written_pages(pid, ranges, before))
        return _explain(pid, written)
    finally:
        os.close(done)
        os.close(release)  # the child ends at the end of file
        os.waitpid(pid, 0)


def _shared_pages(vma: procfs.Vma) -> bytes:
    """One byte a page: 1 where a fork would share something. All of a file is, present here or not."""
    if vma.inode:
        return b"\1" * (vma.size // procfs.PAGE)
    return _flags(None, vma.start, vma.end, _PRESENT_ANON)


def _start(trial: Callable[[], Any]) -> tuple[int, int, int]:
    """(pid, pipe that tells how it went, pipe whose end lets it go)."""
    done, done_child = os.pipe()
    release_child, release = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(done_child)
        os.close(release_child)
        return pid, done, release
    try:
        os.close(release)
        result = trial()  # held: what it refers to shows in the counts
        sys.stdout.flush()
        os.write(done_child, b"ok")
        os.read(release_child, 1)
        del result
    except BaseException:
        text = traceback.format_exc().encode()
        os.write(done_child, text[-60_000:])
    finally:
        os._exit(0)


def _await(pid: int, done: int) -> None:
    answer = os.read(done, 65536)
    if answer == b"ok":
        return
    if answer:
        raise SetupFailed("the trial function", answer.decode(errors="replace"))
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None  # without WNOHANG it waits
    status = ended.si_status if ended.si_code != os.CLD_EXITED else ended.si_status << 8
    raise SetupFailed("the trial function", f"its process {describe_status(status)}\n")


def _flags(pid: int | None, start: int, end: int, table: bytes) -> bytes:
    """One byte a page: 1 where the top byte of its pagemap entry is in `table`."""
    return procfs.pagemap(start, end, pid).tobytes()[7::8].translate(table)


def _written_pages(pid: int, ranges: list[tuple[int, int]], before: list[bytes]) -> Iterator[int]:
    for (start, end), present in zip(ranges, before, strict=True):
        own = _flags(pid, start, end, _OWN_ANON)
        at = own.find(1)
        while at >= 0:
            if at < len(present) and present[at]:
                yield start + at * procfs.PAGE
            at = own.find(1, at + 1)


def _explain(pid: int, pages: list[int]) -> Learnt:
    learnt = Learnt()
    if not pages:
        return learnt
    names = _Names(pages)
    reasons: Counter[str] = Counter()
    with (
        open("/proc/self/mem", "rb", buffering=0) as mine,
        open(f"/proc/{pid}/mem", "rb", buffering=0) as its,
    ):
        for page in pages:
            words = _changed_words(mine, its, page)
            why = Counter(names.reason(address, old, learnt) for address, old in words)
            reasons[why.most_common(1)[0][0] if why else "written, but with the value it had"] += 1
    learnt.hot = dict(reasons.most_common())
    learnt.keep = names.hot_ranges(pages)
    return learnt


def _changed_words(mine: Any, its: Any, page: int) -> list[tuple[int, tuple[int, int]]]:
    """(address, (word here, word behind it here)) of each word that differs in the child."""
    here, there = (array("Q", _page(file, page)) for file in (mine, its))
    found = []
    for index, (old, new) in enumerate(zip(here, there, strict=True)):
        if old != new:
            found.append((page + index * WORD, (old, here[index + 1] if index + 1 < len(here) else 0)))
    return found


def _memory(pid: int | None) -> Any:
    return open(f"/proc/{pid or 'self'}/mem", "rb", buffering=0)


def _page(file: Any, page: int) -> bytes:
    file.seek(page)
    content: bytes = file.read(procfs.PAGE)
    return content


class _Names:
    """What lies at an address: the gc objects of the written pages, all types, and the mappings."""

    def __init__(self, pages: list[int]) -> None:
        wanted = set(pages)
        size = procfs.PAGE
        was_frozen = gc.get_freeze_count()
        if was_frozen:
            gc.unfreeze()
        objects = gc.get_objects()
        found = [(id(o), type(o).__name__) for o in objects if id(o) // size * size in wanted]
        self.types = {id(o): o.__name__ for o in objects if isinstance(o, type)}
        self.types |= {id(t): t.__name__ for t in (int, float, str, bytes, complex, range, slice)}
        del objects
        if was_frozen:
            gc.freeze()
        found.sort()
        self.addresses = [address for address, _ in found]
        self.names = [name for _, name in found]
        self.vmas = procfs.maps()
        self.starts = [vma.start for vma in self.vmas]

    def reason(self, address: int, words: tuple[int, int], learnt: Learnt) -> str:
        count, behind = words
        name = self.types.get(behind)
        if name is not None and 0 < count < 1 << 31:
            learnt.mortal.append((address, behind))
            return f"reference count of {name}"
        at = bisect_right(self.addresses, address + GC_HEADER_WORDS * WORD) - 1
        if at >= 0 and 0 <= address - (self.addresses[at] - GC_HEADER_WORDS * WORD) < 4 * procfs.PAGE:
            offset = address - self.addresses[at]
            if -GC_HEADER_WORDS * WORD <= offset < 0:
                return f"gc header of {self.names[at]}"
            if offset < 512:
                return f"data of {self.names[at]}"
        return self._region(address)

    def _region(self, address: int) -> str:
        vma = self.vmas[bisect_right(self.starts, address) - 1]
        if vma.path.startswith("/memfd:clonal-image") or not vma.path:
            return "allocator and raw data"
        return f"data in {os.path.basename(vma.path)}"

    def hot_ranges(self, pages: list[int]) -> list[tuple[int, int]]:
        """Small mappings of which at least half is written: they stay anonymous, as VMAs of their own."""
        written = Counter(bisect_right(self.starts, page) - 1 for page in pages)
        small = [
            self.vmas[index]
            for index, count in written.items()
            if self.vmas[index].size <= SMALL_VMA_PAGES * procfs.PAGE
            and count * 2 * procfs.PAGE >= self.vmas[index].size
        ]
        return [(vma.start, vma.end) for vma in small]
