"""Freezing a live process: what moves, what stays, what is refused, and that nothing is lost."""

from __future__ import annotations

import json

import pytest

from tests.support import IS_ROOT, run_script

HEAP = """
import ctypes, gc, json, mmap, os, signal, sys, threading
import clonal
from clonal.kernel import procfs
def heap(mb):
    objects = [{"i": i, "s": str(i), "l": [i]} for i in range(mb * 1500)]
    raw = bytearray(os.urandom(1 << 20) * (mb // 2))
    return objects, raw
def images():
    return [vma for vma in procfs.maps() if vma.path.startswith("/memfd:clonal-image")]
def forked(body):
    "What body() returns in a forked child, by JSON."
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.write(write, json.dumps(body()).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    text = b""
    while part := os.read(read, 65536):
        text += part
    os.close(read)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return json.loads(text)
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
pointer, size, integer, offset = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_long
libc.mmap.argtypes = [pointer, size, integer, integer, integer, offset]
libc.madvise.argtypes = [pointer, size, integer]
libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
def region(pages, fill=7, flags=0x22, prot=3):
    address = libc.mmap(None, pages * 4096, prot, flags, -1, 0)
    if fill is not None:
        ctypes.memset(address, fill, pages * 4096)
    return address
def vma_of(address):
    return next(vma for vma in procfs.maps() if vma.start <= address < vma.end)
"""


def test_a_fork_after_the_freeze_copies_no_page_tables_of_the_heap(user: str | None) -> None:
    """Page tables of a 128 MB heap take some 260 kB; a clone of the image has those of a few pages."""
    run_script(
        HEAP
        + """
objects, raw = heap(64)
def tables():
    return procfs.status().size("VmPTE")
def mapped():
    return procfs.status().size("RssAnon")
plain, plain_rss = forked(tables), forked(mapped)
report = clonal.freeze()
assert report.bytes_imaged > 60 << 20, report
assert not report.degraded or sys.version_info < (3, 12), report
frozen, frozen_rss = forked(tables), forked(mapped)
assert frozen_rss < 4 << 20 < 60 << 20 < plain_rss, (frozen_rss, plain_rss)
assert frozen < plain / 2, (frozen, plain)
""",
        user=user,
    )


def test_every_byte_and_object_is_as_it_was_in_the_process_and_in_its_clones() -> None:
    run_script(
        HEAP
        + """
import hashlib
objects, raw = heap(48)
def digest():
    return [hashlib.sha256(raw).hexdigest(), hashlib.sha256(repr(objects[::7]).encode()).hexdigest()]
before = digest()
clonal.freeze()
assert digest() == before
assert forked(digest) == before
objects[5]["i"] = "changed"
raw[0:4] = b"abcd"
assert forked(lambda: [objects[5]["i"], bytes(raw[:4]).decode()]) == ["changed", "abcd"]
""",
    )


def test_a_read_of_the_huge_page_image_maps_two_megabytes_at_a_time() -> None:
    run_script(
        HEAP
        + """
from clonal.kernel.probe import KERNEL
if not KERNEL.madv_collapse:
    print("no MADV_COLLAPSE"); sys.exit(0)
raw = bytearray(b"x") * (64 << 20)
report = clonal.freeze()
assert report.huge_coverage > 0.8, report
def faults():
    before = procfs.stat().minflt
    for i in range(0, len(raw), 4096):
        raw[i]
    return procfs.stat().minflt - before
count = forked(faults)
assert count < 64 + 100, count
""",
    )


def test_pages_of_zeroes_and_holes_stay_anonymous() -> None:
    run_script(
        HEAP
        + """
size = 64 << 20
zeroes = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, size, 4096):
    zeroes[at] = 0
report = clonal.freeze()
assert report.bytes_imaged < 32 << 20, report
assert zeroes[: 1 << 20] == bytes(1 << 20)
""",
    )


def test_freezing_twenty_times_grows_neither_mappings_nor_memory() -> None:
    run_script(
        HEAP
        + """
objects, raw = heap(32)
first = clonal.freeze(immortal=False)
held = []
for turn in range(20):
    for item in objects[turn * 700 : turn * 700 + 5000]:
        item["i"] = turn
    for at in range(turn * 4096, len(raw), 5 << 20):
        raw[at] = turn
    report = clonal.freeze(immortal=False)
    held.append(report.superseded_bytes)
    assert report.vmas_after <= 2 * first.vmas_after + 64, (first, report)
    total = sum(g.mapped_bytes for g in report.old_generations) + report.bytes_imaged
    assert report.superseded_bytes <= max(64 << 20, total // 4), (turn, report)
assert report.generation == 21
assert forked(lambda: procfs.status().size("RssAnon")) < 4 << 20
assert [item["i"] for item in objects[19 * 700 : 19 * 700 + 5000]] == [19] * 5000
""",
    )


def test_other_threads_are_stopped_for_the_freeze_and_go_on_after_it() -> None:
    run_script(
        HEAP
        + """
sys.setswitchinterval(1e-4)  # the counters keep the GIL from what freeze() imports
objects, raw = heap(16)
counts = [0, 0]
stop = threading.Event()
def count(index):
    while not stop.is_set():
        counts[index] += 1
waiting = threading.Event()
threads = [threading.Thread(target=count, args=(i,), name=f"counter-{i}") for i in range(2)]
threads.append(threading.Thread(target=waiting.wait, name="waiter"))
for thread in threads:
    thread.start()
for _ in range(5):
    report = clonal.freeze()
    names = " ".join(report.threads_stopped)
    assert "counter-0" in names and "waiter" in names, report
before = list(counts)
while counts[0] == before[0] or counts[1] == before[1]:
    pass
stop.set(); waiting.set()
for thread in threads:
    thread.join()
""",
    )


def test_a_thread_that_cannot_be_stopped_is_named_and_the_freeze_refused() -> None:
    run_script(
        HEAP
        + """
import ctypes, platform
ready, stop = threading.Event(), threading.Event()
def deaf():
    every = ctypes.c_uint64(2**64 - 1)  # by the bare call: libc leaves out the signals it keeps for itself
    number = {"x86_64": 14, "aarch64": 135}[platform.machine()]  # rt_sigprocmask
    ctypes.CDLL(None).syscall(number, 0, ctypes.byref(every), None, 8)
    ready.set()
    stop.wait()
thread = threading.Thread(target=deaf, name="deaf")
thread.start(); ready.wait()
try:
    clonal.freeze()
except clonal.FreezeRefused as error:
    assert "'deaf'" in str(error), error
else:
    raise AssertionError("not refused")
assert not images()
stop.set(); thread.join()
clonal.freeze()
assert images()
""",
    )


def test_threads_refuse_names_the_threads_and_changes_nothing() -> None:
    run_script(
        HEAP
        + """
stop = threading.Event()
thread = threading.Thread(target=stop.wait, name="worker")
thread.start()
try:
    clonal.freeze(threads="refuse")
except clonal.FreezeRefused as error:
    assert "'worker'" in str(error), error
else:
    raise AssertionError("not refused")
assert not images()
stop.set(); thread.join()
""",
    )


@pytest.mark.parametrize(
    ("advice", "reason"),
    [(10, "DONTFORK"), (18, "WIPEONFORK")],
)
def test_memory_that_clones_do_not_share_stays_where_it_is(advice: int, reason: str) -> None:
    run_script(
        HEAP
        + f"""
address = region(64)
assert libc.madvise(address, 64 * 4096, {advice}) == 0
report = clonal.freeze()
assert not vma_of(address).path, vma_of(address)
assert any("{reason}" in kept.reason and kept.bytes >= 64 * 4096 for kept in report.kept), report
assert ctypes.string_at(address, 64 * 4096) == bytes([7]) * 64 * 4096
""",
    )


def test_locked_shared_and_unreadable_memory_stays_where_it_is() -> None:
    run_script(
        HEAP
        + """
locked = region(16); assert libc.mlock(locked, 16 * 4096) == 0
shared = region(16, flags=0x21)
hidden = region(16); assert libc.mprotect(ctypes.c_void_p(hidden), 16 * 4096, 0) == 0
report = clonal.freeze()
for address in (locked, shared, hidden):
    assert "clonal" not in vma_of(address).path, vma_of(address)
ctypes.memset(shared, 1, 4096)
assert forked(lambda: ctypes.string_at(shared, 1)[0]) == 1
libc.mprotect(ctypes.c_void_p(hidden), 16 * 4096, 3)
assert ctypes.string_at(hidden, 10) == bytes([7]) * 10
""",
    )


def test_advice_given_before_the_freeze_is_given_again() -> None:
    run_script(
        HEAP
        + """
size = 512
address = region(size)
assert libc.madvise(address, size * 4096, 16) == 0  # DONTDUMP
other = region(size)
assert libc.madvise(other, size * 4096, 15) == 0  # NOHUGEPAGE
clonal.freeze()
flags = {s.vma.start: s.flags for s in procfs.smaps()}
assert "clonal" in vma_of(address).path and "dd" in flags[vma_of(address).start]
assert "clonal" in vma_of(other).path and "nh" in flags[vma_of(other).start]
""",
    )


def test_without_memory_files_it_falls_back_to_huge_pages_in_place() -> None:
    run_script(
        HEAP
        + """
objects, raw = heap(64)
report = clonal.freeze()
assert report.bytes_imaged == 0 and not images()
assert any("memfd" in text and "huge pages in place" in text for text in report.degraded), report
assert procfs.smaps_rollup()["AnonHugePages"] > 16 << 20
""",
        env={"CLONAL_DISABLE": "memfd"},
    )


def test_a_file_size_limit_that_may_be_raised_is_raised_for_the_moment_and_restored() -> None:
    run_script(
        HEAP
        + """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
assert clonal.freeze().bytes_imaged > 0
assert resource.getrlimit(resource.RLIMIT_FSIZE) == (1 << 20, resource.RLIM_INFINITY)
""",
    )


def test_a_hard_file_size_limit_falls_back_and_says_so(user: str | None) -> None:
    run_script(
        HEAP
        + """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
report = clonal.freeze()
assert any("RLIMIT_FSIZE" in text for text in report.degraded), report
assert report.bytes_imaged == 0
""",
        user=user,
    )


def test_under_mlockall_future_nothing_is_copied() -> None:
    if not IS_ROOT:
        pytest.skip("mlockall of a whole interpreter needs CAP_IPC_LOCK")
    run_script(
        HEAP
        + """
assert libc.mlockall(2) == 0
report = clonal.freeze()
assert any("MCL_FUTURE" in text for text in report.degraded), report
assert not images()
libc.munlockall()
""",
    )


def test_signals_during_the_freeze_are_delivered_after_it_and_none_is_lost() -> None:
    run_script(
        HEAP
        + """
objects, raw = heap(32)
seen = []
signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
def storm():
    for _ in range(300):
        os.kill(os.getpid(), signal.SIGUSR1)
parent = os.getpid()
pid = os.fork()
if pid == 0:
    for _ in range(2000):
        os.kill(parent, signal.SIGUSR1)
    os._exit(0)
for _ in range(5):
    clonal.freeze(immortal=False)
    objects[0]["i"] = 1
os.waitpid(pid, 0)
assert seen
before = len(seen)
os.kill(os.getpid(), signal.SIGUSR1)
while len(seen) == before:
    pass
""",
    )


def test_the_report_is_text_and_json() -> None:
    result = run_script(
        HEAP
        + """
objects, raw = heap(8)
report = clonal.freeze()
print(report.to_json())
assert "in an image" in str(report)
""",
    )
    report = json.loads(result.stdout)
    assert report["bytes_imaged"] > 4 << 20
    assert report["vmas_before"] > 0 < report["vmas_after"]


def test_the_image_is_sealed_closed_and_gone_with_the_process() -> None:
    run_script(
        HEAP
        + """
clonal.freeze()
paths = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
links = [os.readlink(path) for path in paths if os.path.lexists(path)]
assert not any("clonal" in link for link in links), links
""",
    )


def test_a_wrong_argument_says_what_is_right() -> None:
    run_script(
        """
import clonal
try:
    clonal.freeze(threads="kill")
except ValueError as error:
    assert '"stop" or "refuse"' in str(error)
else:
    raise AssertionError
"""
    )


def test_a_trial_clone_tells_which_pages_are_always_written_and_why() -> None:
    run_script(
        HEAP
        + """
counters = [bytearray(4096 * 4) for _ in range(3)]
class Counter:
    def __init__(self):
        self.value = 0
counter = Counter()
hidden = [object() for _ in range(100_000)]
cell = ctypes.py_object(hidden)  # reachable through ctypes too
def warm():
    for each in counters:
        each[5000] += 1
    counter.value += 1
    return len(hidden)
report = clonal.freeze(trial=warm)
assert sum(report.hot.values()) > 3, report.hot
assert any("allocator and raw data" in why or "data of" in why for why in report.hot), report.hot
assert "always written by a clone" in str(report)
assert counter.value == 0 and counters[0][5000] == 0
warm()
"""
    )


def test_a_reference_that_the_walk_cannot_reach_is_found_by_the_trial() -> None:
    run_script(
        HEAP
        + """
from clonal.image import heap
if heap.why_not_immortal() is not None:
    print(heap.why_not_immortal()); sys.exit(0)
from clonal import _native
strings = [str(i) + "!" for i in range(20_000)]
for string in strings:
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(string))
store = (ctypes.c_void_p * 20_000)(*map(id, strings))  # as an extension's own table would
del strings, string
def item(i):
    return ctypes.cast(store[i], ctypes.py_object).value
def warm():
    return [item(i) for i in range(20_000)]
first = clonal.freeze()
assert not _native.is_immortal(item(7))
report = clonal.freeze(trial=warm)
assert any("reference count of str" in why for why in report.hot), report.hot
assert _native.is_immortal(item(7))
"""
    )


def test_a_failing_trial_shows_its_traceback_and_changes_nothing() -> None:
    run_script(
        HEAP
        + """
def warm():
    raise KeyError("no such thing")
try:
    clonal.freeze(trial=warm)
except clonal.SetupFailed as error:
    assert "in warm" in str(error) and "no such thing" in str(error)
else:
    raise AssertionError
assert not images()
try:
    clonal.freeze(trial=lambda: os.kill(os.getpid(), signal.SIGKILL))
except clonal.SetupFailed as error:
    assert "SIGKILL" in str(error), error
else:
    raise AssertionError
"""
    )
