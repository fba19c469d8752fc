"""The kernel writes to a process's memory, too: what a freeze must leave alone, refuse, or carry through."""

from __future__ import annotations

import os
import platform

import pytest

from tests.conformance.prelude import run

X86 = platform.machine() == "x86_64"
# Numbers of system calls that differ; newer ones (io_uring, mseal, …) are the same everywhere.
_NAMES = ("futex", "io_setup", "io_destroy", "getcpu")
CALLS = f"SYS = dict(zip({_NAMES!r}, {(202, 206, 207, 309) if X86 else (98, 0, 1, 168)!r}))\n"


def test_the_page_of_thread_local_storage_stays_anonymous_in_all_threads() -> None:
    """rseq, set_tid_address and the robust list are there: the kernel writes to them at any time."""
    run("""
places, go, stop = [libc.pthread_self()], threading.Semaphore(0), threading.Event()
def thread():
    places.append(libc.pthread_self())
    go.release()
    stop.wait()
threads = [threading.Thread(target=thread, daemon=True) for _ in range(3)]
for each in threads: each.start()
for each in threads: go.acquire()
assert clonal.freeze().bytes_imaged
for place in places:
    assert not is_image(place), vma_of(place)
stop.set()
for each in threads: each.join()
""")


def test_a_thread_that_changes_cpus_during_freezes_knows_where_it_is() -> None:
    """sched_getcpu reads the rseq area, which the kernel writes when it moves a thread."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one CPU only")
    run(
        CALLS
        + """
raw = bytearray(os.urandom(1 << 20)) * 16
me, cpus = os.getpid(), sorted(os.sched_getaffinity(0))
mover = os.fork()
if mover == 0:
    while True:
        for cpu in cpus:
            os.sched_setaffinity(me, {cpu})
def where():
    cpu = ctypes.c_uint(99)
    assert call(SYS["getcpu"], ctypes.byref(cpu), 0, 0) == 0
    return cpu.value
for turn in range(6):
    raw[turn << 21] = turn
    clonal.freeze(immortal=False, hugepages=turn % 2 == 0)
os.kill(mover, signal.SIGKILL); os.waitpid(mover, 0)
for cpu in cpus:
    os.sched_setaffinity(0, {cpu})
    assert libc.sched_getcpu() == where() == cpu, (libc.sched_getcpu(), where(), cpu)
"""
    )


@pytest.mark.parametrize("kind", ["private", "shared"])
def test_a_thread_that_waits_on_a_futex_in_frozen_memory_is_woken(kind: str) -> None:
    run(
        CALLS
        + f"private = {128 if kind == 'private' else 0}\n"
        + """
word = region(16, fill=0)
ctypes.c_uint.from_address(word + 5 * PAGE).value = 1  # zeroes alone would not be imaged
ctypes.memset(word + PAGE, 9, 4 * PAGE)
at = word + 5 * PAGE
results = []
def wait():
    while ctypes.c_uint.from_address(at).value == 1:
        call(SYS["futex"], at, 0 | private, 1, 0, 0, 0)
    results.append("woken")
threads = [threading.Thread(target=wait, daemon=True) for _ in range(2)]
for each in threads: each.start()
def waiting(tid):
    with open(f"/proc/self/task/{tid}/syscall") as file:
        return file.read().split()[0] == str(SYS["futex"])
while not all(waiting(t.native_id) for t in threads):
    pass
for turn in range(3):
    clonal.freeze(immortal=False)
    assert is_image(at), vma_of(at)
while not all(waiting(t.native_id) for t in threads):
    pass
assert results == []
ctypes.c_uint.from_address(at).value = 2
woken = 0
while woken < 2:
    woken += call(SYS["futex"], at, 1 | private, 10, 0, 0, 0)
for each in threads: each.join(30)
assert results == ["woken"] * 2
"""
    )


def test_kernel_aio_is_refused_until_its_context_is_gone(user: str | None) -> None:
    run(
        CALLS
        + """
context = ctypes.c_ulong(0)
if call(SYS["io_setup"], 8, ctypes.byref(context)) != 0:
    skip(f"no kernel AIO here: {failed()}")
refused("AIO")
assert call(SYS["io_destroy"], context.value) == 0
assert clonal.freeze().bytes_imaged
""",
        user=user,
    )


URING = """
parameters = (ctypes.c_uint * 30)()
ring = call(425, 4, ctypes.byref(parameters))
if ring < 0:
    skip(f"no io_uring here: {failed()}")
"""


def test_an_io_uring_is_refused_mapped_or_not_until_it_is_closed() -> None:
    """A ring may complete reads into any memory while pages move."""
    run(
        URING
        + """
refused("io_uring")
mapped = libc.mmap(None, PAGE, 3, 0x8001, ring, 0)
refused("io_uring")
libc.munmap(ctypes.c_void_p(mapped), PAGE)
os.close(ring)
assert clonal.freeze().bytes_imaged
"""
    )


def test_pinned_buffers_are_refused() -> None:
    """A completed read into a fixed buffer would go to the old page, and be lost."""
    run(
        URING
        + """
buffer = region(64)
vector = (ctypes.c_ulong * 2)(buffer, 64 * PAGE)
if call(427, ring, 0, ctypes.byref(vector), 1) != 0:
    skip(f"buffers cannot be registered: {failed()}")
if not procfs.status().size("VmPin"):
    skip("this kernel does not count registered buffers in VmPin")
refused("pinned")
os.close(ring)
"""
    )


def test_a_timer_every_millisecond_and_threads_disturb_no_freeze() -> None:
    run("""
objects = [{"i": i, "l": [i]} for i in range(30_000)]
raw = bytearray(8 << 20)
ticks, stop = [0], threading.Event()
def tick(*_):
    ticks[0] += 1
    raw[ticks[0] % 1000] = ticks[0] % 256
signal.signal(signal.SIGALRM, tick)
memory = ctypes.create_string_buffer(1 << 20)
wrong = []
def write():
    turn = 0
    while not stop.is_set():
        turn += 1
        ctypes.memset(memory, turn % 251, len(memory))
        if memory.raw.count(turn % 251) != len(memory):
            wrong.append(turn)
threads = [threading.Thread(target=write, daemon=True)]
for each in threads: each.start()
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
for turn in range(6):
    before = ticks[0]
    objects[turn]["i"] = -1
    clonal.freeze(immortal=turn % 2 == 0)
    while ticks[0] == before:
        pass
signal.setitimer(signal.ITIMER_REAL, 0)
stop.set()
for each in threads: each.join()
assert not wrong, wrong
assert raw[ticks[0] % 1000] == ticks[0] % 256
assert [o["i"] for o in objects[:8]] == [-1] * 6 + [6, 7]
""")
