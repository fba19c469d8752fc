"""The server on the page-exact model, and which pages its clones touch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clonal.model import PAGE, Advice, Config, Machine, Map, Process, Prot
from clonal.plan.question import Fleet
from clonal.plan.server import TABLE_SPAN, Server

PageNumbers = npt.NDArray[np.int64]
HEAP, OTHERS, REST = (
    1 << 30,
    1 << 33,
    1 << 34,
)  # the first page of each part: far apart, at multiples of 2 MiB
PER_TABLE = 32  # private pages of libraries and stacks in one page table, as they usually lie


class Touched(NamedTuple):
    """Page numbers."""

    written: PageNumbers
    read: PageNumbers


class Draw:
    """Which pages of the heap each clone touches: random ones, or all clones the same. Seeded."""

    def __init__(self, server: Server, fleet: Fleet, seed: int = 1) -> None:
        self._pages, self._fleet = server.heap_pages, fleet
        self._random = np.random.default_rng(seed)
        self._same = self._some(fleet.share) if fleet.same else None

    def written(self) -> PageNumbers:
        """By the next clone."""
        return self._some(self._fleet.share) if self._same is None else self._same

    def touched(self) -> Touched:
        """By the next clone, with what it reads."""
        return Touched(self.written(), self._some(0.0 if self._fleet.execs else self._fleet.read))

    def _some(self, share: float) -> PageNumbers:
        count = round(self._pages * share)
        if count == self._pages:
            return np.arange(HEAP, HEAP + count)
        return HEAP + np.sort(self._random.choice(self._pages, count, replace=False, shuffle=False))


def build(server: Server, clones: int, share: float) -> Process:
    """The server, on a machine that has memory enough for it and its clones: what is short on the real one is
    judged by limits.py."""
    machine = Machine(Config(ram=_enough(server, clones, share), overcommit=1))
    process = machine.spawn()
    if server.image_pages:
        file = machine.memfd(server.image_pages)
        file.load(np.arange(server.image_pages))
        process.mmap(server.image_pages * PAGE, Prot.RW, Map.PRIVATE, file, at=HEAP * PAGE)
    if own := server.heap_pages - server.image_pages:
        heap = process.mmap(own * PAGE, at=(HEAP + server.image_pages) * PAGE)
        if server.thp:
            process.madvise(heap, own * PAGE, Advice.HUGEPAGE)
        process.write(heap, own * PAGE)
    _others(process, server)
    _rest(process, server)
    return process


def _others(process: Process, server: Server) -> None:
    """Private pages outside the heap: in mappings of their own, some of them in each page table."""
    mappings = min(server.others, server.anon_vmas - bool(server.heap))
    if mappings <= 0:
        return
    each = -(-server.others // mappings)
    apart = max(each + 1, each * TABLE_SPAN // PER_TABLE)
    left = server.others
    for number in range(mappings):
        pages = min(each, left)
        left -= pages
        if pages:
            start = process.mmap(pages * PAGE, at=(OTHERS + number * apart) * PAGE)
            process.write(start, pages * PAGE)


def _rest(process: Process, server: Server) -> None:
    """Mappings of files without a private page: fork copies nothing of them but themselves."""
    count = max(server.vmas - len(process.space.vmas), 0)
    if not count and not server.code_pages:
        return
    machine = process.machine
    code = process.mmap(
        max(server.code_pages, 1) * PAGE,
        Prot.READ,
        Map.PRIVATE,
        machine.file(max(server.code_pages, 1)),
        at=REST * PAGE,
    )
    if server.code_pages:
        process.read(code, server.code_pages * PAGE)
    one = machine.file(1)
    for number in range(1, count):
        start = REST + server.code_pages + 2 * number
        process.mmap(PAGE, Prot.READ, Map.PRIVATE, one, at=start * PAGE)


def _enough(server: Server, clones: int, share: float) -> int:
    held = 2 * server.heap_pages + server.code_pages + 2 * server.others
    each = round(server.heap_pages * share) + server.others
    return PAGE * (held + clones * each + held // 64 + clones * (held // TABLE_SPAN + 64) + 4096)
