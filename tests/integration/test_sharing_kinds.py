"""What memory is for, and pages that are not simply there: huge ones, zeroes, guards, large reservations."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import clonal
from clonal.kernel import procfs
from clonal.kernel.probe import KERNEL
from clonal.kernel.procfs import PAGE, Vma
from clonal.observe import numa
from clonal.observe.kinds import MemoryKind, classify
from clonal.observe.pages import frames_shown, pages
from clonal.observe.pools import HEADER, POOL, are_headers
from clonal.observe.sharing import Usage
from tests.integration.sharing_fixtures import running

HUGE = 2 << 20
SLACK = 30 * PAGE


def only(pid: int, kind: MemoryKind) -> Usage:
    """Of the first member."""
    return clonal.sharing(pid).members[0].kinds.get(kind, Usage())


@pytest.mark.skipif(KERNEL.thp_enabled not in ("always", "madvise"), reason="no transparent huge pages")
def test_huge_pages_are_counted_by_their_size_until_a_write_splits_them() -> None:
    source = """
memory = area(4 * 512, huge=True)
import ctypes
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
first = -start % (2 << 20) // PAGE  # the first page on a boundary of 2 MiB
write(memory, 4 * 512)
child = fork(lambda: write(memory, 1, first))
tell(child=child, first=first)
"""
    with running(source) as facts:
        family = clonal.sharing(facts["pid"])
    parent, child = (each.kinds[MemoryKind.BUFFERS] for each in family.members)
    if parent.huge < (4 * 512 - facts["first"]) * PAGE // HUGE * HUGE:
        pytest.skip("the kernel had not all the huge pages to give")
    assert child.huge == parent.huge - HUGE  # its entry for the page it wrote is split into 512
    assert PAGE <= (child.copied or 0) <= PAGE + SLACK
    assert abs(parent.present - child.present) <= SLACK


def test_what_was_only_read_is_the_zero_page_and_no_memory() -> None:
    with running("memory = area(1000)\nread(memory, 1000)\ntell()\n") as facts:
        found = only(facts["pid"], MemoryKind.BUFFERS)
    assert 1000 * PAGE <= found.zero <= 1000 * PAGE + SLACK
    assert found.present < 1000 * PAGE * 5


def test_guard_pages_are_not_swapped_ones() -> None:
    source = """
MADV_GUARD_INSTALL = 102
memory = area(100)
write(memory, 50)
try:
    memory.madvise(MADV_GUARD_INSTALL, 50 * PAGE, 50 * PAGE)
    tell(guarded=True)
except OSError:
    tell(guarded=False)
"""
    with running(source) as facts:
        if not facts["guarded"]:
            pytest.skip("no MADV_GUARD_INSTALL (Linux 6.13)")
        family = clonal.sharing(facts["pid"])
    assert family.total.swapped == 0


def test_a_reservation_of_terabytes_does_not_keep_us() -> None:
    source = """
MAP_NORESERVE = 0x4000
memory = area((4 << 40) // PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
tell()
"""
    with running(source) as facts:
        family = clonal.sharing(facts["pid"])
    assert family.seconds < 5 and family.total.present < 1 << 30


def test_objects_heap_and_buffers_are_told_apart() -> None:
    source = """
objects = [[number] for number in range(200_000)]
buffer = bytearray(40 << 20)
write_all = [buffer.__setitem__(at, 1) for at in range(0, len(buffer), PAGE)]
tell()
"""
    with running(source) as facts:
        (member,) = clonal.sharing(facts["pid"]).members
    assert member.objects_by == "pool headers"
    lists = 200_000 * (16 + sys.getsizeof([])) + 200_000 * sys.getsizeof(1 << 20)
    found = member.kinds[MemoryKind.OBJECTS].present
    assert 0.9 * lists < found < 1.5 * lists + (8 << 20)
    assert 40 << 20 <= member.kinds[MemoryKind.BUFFERS].present < 48 << 20
    assert member.kinds[MemoryKind.MALLOC].present > 0


def test_the_stacks_of_threads_are_stacks_and_their_arenas_malloc_heap() -> None:
    source = """
import ctypes, threading
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
hold = threading.Event()
begun = threading.Barrier(4)
def work():
    for _ in range(1000):
        ctypes.memset(libc.malloc(ctypes.c_size_t(4000)), 1, 4000)  # in an arena of the thread's own
    begun.wait()
    hold.wait()
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
begun.wait()
tell()
os._exit(0)
"""
    with running(source) as facts:
        text = Path(f"/proc/{facts['pid']}/maps").read_text()
        (member,) = clonal.sharing(facts["pid"]).members
    assert member.kinds[MemoryKind.STACK].present >= 4 * 2 * PAGE
    if "---p" not in text:
        pytest.skip("this C library does not reserve arenas")
    assert member.kinds[MemoryKind.MALLOC].present > 3 * 1000 * 4000


def test_a_pool_s_header_is_known_and_noise_is_not() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (10_000, HEADER), np.uint8)
    assert are_headers(noise).sum() == 0
    assert not are_headers(np.zeros((1, HEADER), np.uint8)).any()
    size_class = 5
    words = np.zeros((1, HEADER // 4), np.uint32)
    words[0, 0], words[0, 8:12] = 3, (0, size_class, HEADER, POOL - (size_class + 1) * 16)
    assert are_headers(words.view(np.uint8)).all()


def test_mappings_are_told_by_their_place() -> None:
    def vma(start: int, size: int, perms: str, path: str = "", inode: int = 0, offset: int = 0) -> Vma:
        return Vma(start << 12, (start + size) << 12, perms, offset << 12, "fe:00", inode, path)

    library = "/usr/lib/libx.so"
    vmas = [
        vma(0x100, 4, "r--p", library, 7),
        vma(0x104, 8, "r-xp", library, 7, 4),
        vma(0x10C, 4, "r--p", library, 7, 12),
        vma(0x110, 2, "r--p", library, 7, 16),
        vma(0x112, 2, "rw-p", library, 7, 18),
        vma(0x114, 100, "rw-p"),
        vma(0x8000, 33, "rw-p"),
        vma(0x8021, 0x4000 - 33, "---p"),
        vma(0x10000, 1, "---p"),
        vma(0x10001, 2048, "rw-p"),
        vma(0x20000, 10, "rw-p", "/memfd:clonal-image (deleted)", 9),
        vma(0x20010, 10, "rw-s", "/dev/shm/x", 10),
        vma(0x20020, 10, "r--s", "/var/data", 11),
        vma(0x20030, 300, "rw-p", "[anon: glibc: malloc]"),
        vma(0x30000, 10, "rw-p", "[stack]"),
    ]
    found = classify(vmas, lambda first: 30 << 12)  # ten pages of zeroed data follow the two of the file
    kinds = [(region.kind.name, region.size >> 12) for region in found]
    assert kinds == [
        ("CODE", 4), ("CODE", 8), ("CODE", 4), ("DATA", 2), ("DATA", 2), ("DATA", 10), ("BUFFERS", 90),
        ("MALLOC", 33), ("OTHER", 0x4000 - 33), ("OTHER", 1), ("STACK", 2048), ("IMAGE", 10), ("SHARED", 10),
        ("CACHE", 10), ("MALLOC", 300), ("STACK", 10),
    ]  # fmt: skip


def test_memory_by_node_is_the_sum_of_numa_maps() -> None:
    text = (
        "7f0000000000 default anon=3 dirty=3 N0=1 N1=2 kernelpagesize_kB=4\n"
        "7f0000200000 default huge anon=1 N1=1 kernelpagesize_kB=2048\n"
        "7ffc00000000 default stack anon=2 N0=2 kernelpagesize_kB=4\n"
    )
    assert numa.parse(text) == {0: 3 * 4096, 1: 2 * 4096 + HUGE}


def test_pages_are_those_of_the_ranges_asked_for() -> None:
    with running("import ctypes\nmemory = area(50)\nwrite(memory, 20)\n"
                 "tell(start=ctypes.addressof(ctypes.c_char.from_buffer(memory)))\n") as facts:  # fmt: skip
        start = facts["start"]
        spans = [(start + first * PAGE, start + last * PAGE) for first, last in ((0, 4), (4, 10), (15, 50))]
        found = pages(facts["pid"], spans)
    numbers = [*range(10), *range(15, 20)]
    assert (found.number - start // PAGE).tolist() == numbers
    assert bool(found.frame.all()) == frames_shown()


def test_figures_agree_with_the_kernel_s_own() -> None:
    with running("tell()\n") as facts:
        before: list[int] = []
        while before != (before := private(facts["pid"])):  # until no stranger has mapped a library meanwhile
            (member,) = clonal.sharing(facts["pid"]).members
    assert member.total.present == member.rss
    assert member.total.exclusive == member.uss
    assert member.uss <= member.pss <= member.rss


def private(pid: int) -> list[int]:
    sizes = procfs.smaps_rollup(pid)
    return [sizes[name] for name in ("Rss", "Private_Clean", "Private_Dirty")]


def test_to_look_changes_nothing() -> None:
    source = """
objects = [[number] for number in range(200_000)]
children = [fork(lambda: None) for _ in range(2)]
tell(children=children)
"""
    with running(source) as facts:
        seen = [clonal.sharing(facts["pid"]).members for _ in range(3)]
    for before, after in zip(seen[0], seen[-1], strict=True):
        for kind in (MemoryKind.OBJECTS, MemoryKind.MALLOC, MemoryKind.BUFFERS):  # what strangers cannot map
            was, now = before.kinds[kind], after.kinds[kind]
            assert now.exclusive - was.exclusive <= SLACK  # of 7,000 pages of objects, one in four is read
            assert now.present - was.present <= SLACK
