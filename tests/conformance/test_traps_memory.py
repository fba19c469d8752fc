"""Which memory moves, what it keeps, and what a fork costs after work has dirtied it."""

from __future__ import annotations

import pytest

from clonal.kernel import cgroup
from tests.conformance.prelude import PRELUDE, run
from tests.groups import in_group
from tests.overcommit import overcommit_mode
from tests.support import IS_ROOT

MB = 1 << 20


@pytest.mark.parametrize(
    ("making", "reason"),
    [
        ("address = region(16); ok = call(462, address, 16 * PAGE, 0) == 0", "sealed"),
        ("address = region(512, flags=0x40022); ok = address is not None", "hugetlb"),
        ("address = region(16, flags=0x28); ok = address is not None", "WIPEONFORK"),  # droppable memory is
    ],
    ids=["mseal", "hugetlb", "droppable"],
)
def test_memory_of_a_special_kind_stays_where_it_is(making: str, reason: str) -> None:
    run(f"""
{making}
if not ok:
    skip(f"this kernel makes no such memory here: {{failed()}}")
report = clonal.freeze()
assert not is_image(address), vma_of(address)
assert any({reason!r} in kept.reason for kept in report.kept), report
assert ctypes.string_at(address, 10) == bytes([7]) * 10
""")


def test_memory_under_userfaultfd_stays_where_it_is() -> None:
    run("""
import fcntl, struct
fd = call(323, 1 | os.O_CLOEXEC)
if fd < 0:
    skip(f"no userfaultfd here: {failed()}")
address = region(16)
fcntl.ioctl(fd, 0xC018AA3F, struct.pack("QQQ", 0xAA, 0, 0))
try:
    fcntl.ioctl(fd, 0xC020AA00, struct.pack("QQQQ", address, 16 * PAGE, 1, 0))
except OSError as error:
    skip(f"memory cannot be registered: {error}")
report = clonal.freeze()
assert not is_image(address), vma_of(address)
assert any("userfaultfd" in kept.reason for kept in report.kept), report
""")


def test_merging_and_memory_policies_are_asked_for_again() -> None:
    """The policy by the core alone: freeze() asks for it only where there are several nodes."""
    run("""
from clonal import _native
from clonal.image import core, guards
merged, bound = region(512), region(512)
merging = libc.madvise(merged, 512 * PAGE, 12) == 0
nodes = ctypes.c_ulong(1)
bind = getattr(libc, "mbind", None)
numbers = {"x86_64": (237, 239), "aarch64": (235, 236)}[os.uname().machine]
policy = call(numbers[0], bound, 512 * PAGE, 2, ctypes.byref(nodes), 64, 0) == 0
if not merging and not policy:
    skip("this kernel has neither KSM nor memory policies")
guards.install()
given = core.arguments(hugepages=True, compact=False, keep=guards.keep())
assert not _native.freeze(**given | {"numa": True})["call"]
guards.refresh()
assert is_image(merged) and is_image(bound)
if merging:
    assert "mg" in flags_of(merged), flags_of(merged)
if policy:
    mode, found = ctypes.c_int(-1), ctypes.c_ulong(0)
    assert call(numbers[1], ctypes.byref(mode), ctypes.byref(found), 64, bound, 2) == 0
    assert (mode.value, found.value) == (2, 1), (mode.value, found.value)
""")


def test_protection_keys_are_given_again() -> None:
    run("""
key = libc.pkey_alloc(0, 0)
if key < 0:
    skip(f"no protection keys here: {failed()}")
address = region(512)
assert libc.pkey_mprotect(ctypes.c_void_p(address), ctypes.c_size_t(512 * PAGE), 3, key) == 0
clonal.freeze()
assert is_image(address)
with open("/proc/self/smaps") as file:
    text = file.read().split(f"{vma_of(address).start:x}-")[1]
assert int(text.split("ProtectionKey:")[1].split()[0]) == key
""")


def test_the_image_is_sealed() -> None:
    if not IS_ROOT:
        pytest.skip("/proc/self/map_files is root's")
    run("""
import fcntl
address = region(512)
clonal.freeze()
vma = vma_of(address)
fd = os.open(f"/proc/self/map_files/{vma.start:x}-{vma.end:x}", os.O_RDWR)
seals = fcntl.fcntl(fd, 1034)
assert seals & 15 == 15, seals
try:
    os.pwrite(fd, b"x", vma.start)
except PermissionError:
    pass
else:
    raise AssertionError("the image could be written")
""")


def test_alternate_pages_do_not_make_a_mapping_each() -> None:
    run("""
address = region(16_384, fill=None)
for page in range(0, 16_384, 2):
    ctypes.memset(address + page * PAGE, page % 250 + 1, PAGE)
for hugepages in (False, True):
    report = clonal.freeze(immortal=False, hugepages=hugepages)
    assert report.vmas_after < report.vmas_before + 200, report
    ctypes.memset(address + 2 * PAGE, 3, 1)
assert all(ctypes.string_at(address + page * PAGE, 2)[1] == (page % 250 + 1 if page % 2 == 0 else 0)
           for page in range(16_384))
""")


@pytest.mark.parametrize("hugepages", [True, False])
def test_scattered_dirty_pages_are_frozen_again_in_few_pieces(hugepages: bool) -> None:
    """Page by page fork would be slower than before: 1.7 ms left alone, 28.9 ms imaged."""
    run(
        f"hugepages = {hugepages}"
        + """
raw = bytearray(os.urandom(1 << 20)) * 128
first = clonal.freeze(immortal=False, hugepages=hugepages)
tables = forked(page_tables)
for at in range(0, len(raw), 7 * PAGE):
    raw[at] ^= 255
expected = hashlib.sha256(raw).hexdigest()
again = clonal.freeze(immortal=False, hugepages=hugepages)
assert again.vmas_after < first.vmas_after + 100, (first.vmas_after, again.vmas_after)
assert forked(page_tables) < tables + (64 << 10), (tables, forked(page_tables))
assert forked(lambda: procfs.status().size("RssAnon")) < 4 << 20
assert hashlib.sha256(raw).hexdigest() == expected == forked(lambda: hashlib.sha256(raw).hexdigest())
"""
    )


def test_one_written_page_after_reading_everything_costs_a_fork_nothing_with_huge_pages() -> None:
    """Every present entry of a mapping with a page of its own is copied: with 4 KiB pages, all of them."""
    run("""
from clonal.kernel.probe import KERNEL
if not KERNEL.madv_collapse:
    skip("no MADV_COLLAPSE: the image has 4 KiB pages")
def growth(hugepages):
    raw = bytearray(os.urandom(1 << 20)) * 128
    clonal.freeze(immortal=False, hugepages=hugepages)
    def clone_of_a_clone():
        fresh = forked(page_tables)
        assert sum(raw[::PAGE]) > 0
        raw[len(raw) // 2] = 1
        return forked(page_tables) - fresh
    return forked(clone_of_a_clone)
huge, small = growth(True), growth(False)
assert huge < 64 << 10, (huge, small)
assert small > 64 << 10, (huge, small)  # what the trap is
""")


def test_the_image_is_not_charged_to_the_commit_limit_unless_the_mode_is_strict() -> None:
    run("""
address = region(4096)
clonal.freeze()
assert is_image(address) and "nr" in flags_of(address), flags_of(address)
""")


def test_in_the_strict_mode_the_image_is_charged_and_works() -> None:
    with overcommit_mode(2):
        run("""
from clonal.kernel import memory
info = memory.meminfo()
if info["CommitLimit"] - info["Committed_AS"] < 4 << 30:
    skip("less than 4 GB of commit left: it would hinder others")
address = region(4096)
report = clonal.freeze()
assert is_image(address) and "ac" in flags_of(address), (flags_of(address), report)
assert forked(lambda: ctypes.string_at(address, 3)[2]) == 7
""")


@pytest.mark.parametrize("small", [{"memory": 320 * MB}], indirect=True)
def test_a_freeze_needs_little_memory_beyond_what_it_moves(small: list[cgroup.Group]) -> None:
    """200 MB move inside a group that could not hold them twice. A second time, with 4 KiB pages, whole
    mappings would be written anew while the old file still holds them: said and not done."""
    in_group(
        small,
        PRELUDE
        + """
raw = bytearray(os.urandom(1 << 20)) * 200
for turn in range(2):
    report = clonal.freeze(hugepages=turn == 0)
    assert report.bytes_imaged > 200 << 20 or turn, report
    assert report.peak_extra_bytes <= 32 << 20, report
    assert not turn or any("stays as it is" in text for text in report.degraded), report
    written = slice(0, 20 << 20, PAGE)
    raw[written] = b"z" * len(raw[written])
assert raw[: 20 << 20].count(b"z") > (20 << 20) // PAGE
""",
    )


def test_a_core_dump_has_the_heap_with_the_filter_that_the_documentation_names() -> None:
    run("""
with open("/proc/sys/kernel/core_pattern") as file:
    if "|" in (pattern := file.read()) or "/" in pattern:
        skip(f"core dumps go elsewhere: {pattern}")
limit = resource.getrlimit(resource.RLIMIT_CORE)
if limit[1] not in (-1,) and limit[1] < 1 << 30:
    skip(f"no core dumps: {limit}")
resource.setrlimit(resource.RLIMIT_CORE, (limit[1], limit[1]))
needles = bytearray(b"NEEDLE42" * (2 << 17))
clonal.freeze()
def found(filter):
    pid = os.fork()
    if pid == 0:
        with open("/proc/self/coredump_filter", "w") as file:
            file.write(filter)
        import faulthandler
        faulthandler.disable()
        os.kill(os.getpid(), signal.SIGABRT)
    status = os.waitpid(pid, 0)[1]
    if not os.WCOREDUMP(status):
        skip("no core was dumped")
    names = [name for name in os.listdir(".") if name.startswith("core")]
    with open(names[0], "rb") as file:
        count = file.read().count(b"NEEDLE42" * 512)
    os.unlink(names[0])
    return count
assert found("0x37") > 400  # without the bit for private file mappings: only those written to since
""")


def test_the_end_of_a_clone_costs_no_teardown_of_the_image() -> None:
    run("""
HEAP = []
def setup():
    HEAP.extend({"i": i, "l": [i, str(i)]} for i in range(150_000))
def nothing():
    pass
if __name__ == "__main__":
    with clonal.Template(setup=setup) as template:
        clones = [template.clone(nothing) for _ in range(5)]
        for clone in clones:
            clone.wait(30)
        faults = min(clone.usage.minor_faults for clone in clones)
        assert faults < 600, faults  # interpreter teardown writes to some 25,000 pages here
""")
