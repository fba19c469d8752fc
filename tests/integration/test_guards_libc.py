"""What libc does to its own memory inside, after a real freeze: realloc, arenas, trim, guard pages, holes."""

from __future__ import annotations

import pytest

from tests.integration.guard_fixtures import run_guarded

CHUNKS = """
    import clonal
    libc = ctypes.CDLL(None)
    libc.malloc.restype = libc.realloc.restype = libc.calloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.realloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.calloc.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    KB = 1 << 10
    SIZES = [128 * KB, 132 * KB, 200 * KB + 7, 1 << 20, (3 << 20) - 24, 5 << 20, 20 << 20, 64 << 20]

    def pattern(size):
        return (bytes(range(1, 252)) * (size // 251 + 1))[:size]

    def chunks():
        made = {}
        for size in SIZES:
            made[size] = libc.malloc(size)
            ctypes.memmove(made[size], pattern(size), size)
        return made

    def grow_all(made, factor):
        for size, at in made.items():
            more = int(size * factor)
            made[size] = at = libc.realloc(at, more)
            assert ctypes.string_at(at, size) == pattern(size), f"{size} bytes changed"
            ctypes.memset(at + size, 1, more - size)
"""


@pytest.mark.parametrize("hugepages", [True, False])
@pytest.mark.parametrize("factor", [1.1, 4])
def test_realloc_of_frozen_chunks_keeps_the_bytes_and_never_grows_the_image(
    factor: float, hugepages: bool
) -> None:
    run_guarded(f"""{CHUNKS}
    made = chunks()
    clonal.freeze(hugepages={hugepages})
    before = image_bytes()
    assert before > sum(SIZES) // 2
    def work():
        grow_all(made, {factor})
        return image_bytes() <= before
    assert in_child(work) == "True"
    assert work()
    """)


def test_realloc_grows_the_image_with_the_realloc_guard_alone_off() -> None:
    run_guarded(
        f"""{CHUNKS}
    made = chunks()
    clonal.freeze()
    before = image_bytes()
    grow_all(made, 4)
    assert image_bytes() > before, "libc has changed: is the guard still needed?"
    """,
        env={"CLONAL_DISABLE_GUARD": "realloc"},
    )


def test_realloc_is_still_guarded_after_a_second_freeze_and_in_a_clone_that_froze() -> None:
    run_guarded(f"""{CHUNKS}
    made = chunks()
    clonal.freeze()
    for size, at in made.items():
        ctypes.memset(at + size - 1, pattern(size)[-1], 1)  # dirty it
    late = chunks()
    clonal.freeze()
    def work():
        clonal.freeze()
        before = image_bytes()
        grow_all(made, 2)
        grow_all(late, 2)
        return image_bytes() <= before
    assert in_child(work) == "True"
    """)


def test_python_objects_that_grow_never_grow_the_image(user: str | None) -> None:
    run_guarded(
        """
        import clonal
        grown, listed = bytearray(b"x") * (20 << 20), [None] * (2 << 20)
        clonal.freeze(exclude=[bytearray, list])
        before = image_bytes()
        grown.extend(b"y" * (60 << 20))
        listed.extend([0] * (4 << 20))
        assert grown.count(b"x") == 20 << 20 and grown.count(b"y") == 60 << 20
        assert listed.count(None) == 2 << 20 and listed.count(0) == 4 << 20
        assert image_bytes() <= before
    """,
        user=user,
    )


ARENA = (
    CHUNKS
    + """
    import threading
    M_MMAP_THRESHOLD = -3
    COUNT, SIZE = 300, 100_000

    def allocate():
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        made = [libc.malloc(SIZE) for _ in range(COUNT)]
        for at in made:
            ctypes.memset(at, 0xAA, SIZE)
        return made

    def free_then_calloc(made):
        for at in reversed(made):
            libc.free(at)
        libc.malloc_trim(0)
        again = [libc.calloc(1, SIZE) for _ in range(COUNT)]
        return sum(ctypes.string_at(at, SIZE) != bytes(SIZE) for at in again)
"""
)


def test_calloc_from_a_frozen_and_trimmed_main_arena_is_zero() -> None:
    run_guarded(f"""{ARENA}
    made = allocate()
    clonal.freeze()
    assert in_child(lambda: free_then_calloc(made)) == "0"
    assert free_then_calloc(made) == 0
    """)


def test_calloc_from_the_frozen_and_trimmed_arena_of_a_thread_is_zero() -> None:
    run_guarded(f"""{ARENA}
    allocated, frozen, dirty = threading.Event(), threading.Event(), []
    def work():
        made = allocate()
        allocated.set()
        frozen.wait()
        dirty.append(free_then_calloc(made))
    thread = threading.Thread(target=work)
    thread.start()
    allocated.wait()
    clonal.freeze()
    frozen.set()
    thread.join()
    assert dirty == [0]
    """)


def test_stacks_of_threads_that_end_and_start_after_the_freeze_work() -> None:
    run_guarded("""
        import clonal, threading
        def deep(n):
            return 0 if n == 0 else 1 + deep(n - 1)
        def storm():
            sums = []
            threads = [threading.Thread(target=lambda: sums.append(deep(400))) for _ in range(16)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            return sums == [400] * 16
        assert storm()  # their stacks are cached by libc, and frozen
        clonal.freeze()
        assert storm()
        assert in_child(storm) == "True"
    """)


def test_guard_pages_survive_the_freeze_and_what_lies_beside_them_is_intact() -> None:
    run_guarded("""
        import clonal, signal
        region = Region.filled(64)
        if madvise(region.start + 8 * PAGE, 2 * PAGE, GUARD_INSTALL):
            skip("before Linux 6.13 there are no guard pages")
        clonal.freeze()
        assert region.bytes(0, 8) == FULL * 8 and region.bytes(10, 54) == FULL * 54
        pid = os.fork()
        if pid == 0:
            import faulthandler
            faulthandler.disable()
            region.bytes(8, 1)
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGSEGV
        assert madvise(region.start + 8 * PAGE, 2 * PAGE, GUARD_REMOVE) == 0
        assert region.bytes(8, 2) == ZERO * 2
    """)


HOLES = """
    import clonal
    MB = 1 << 20
    region = Region.filled(1)
    start = mmap(0, 64 * MB, RW, MAP_PRIVATE | MAP_ANONYMOUS)
    for at in range(0, 64, 8):
        ctypes.memset(start + at * MB, 1, 100)  # a page each 8 MB
    ctypes.memset(start + 34 * MB, 0, 4 * MB)  # zeroes, and pages
    clonal.freeze(hugepages=False)
    before = status_bytes("RssShmem")
    total = sum(ctypes.string_at(start, 64 * MB))
    grown = status_bytes("RssShmem") - before
    assert total == 8 * 100
"""


def test_reading_holes_and_zeroes_of_frozen_memory_takes_no_memory() -> None:
    run_guarded(f"{HOLES}    assert grown < 4 * MB, grown\n")


def test_reading_holes_fills_the_image_with_the_holes_guard_alone_off() -> None:
    run_guarded(f"{HOLES}    assert grown > 40 * MB, grown\n", env={"CLONAL_DISABLE_GUARD": "holes"})


POOL = """
    import clonal, numpy
    numpy.ones((300, 300)) @ numpy.ones((300, 300))
    if status_bytes("Threads") >> 10 == 1:
        skip("this numpy's BLAS has no thread pool")
"""


def test_thread_pools_with_fork_handlers_are_stopped_before_the_freeze_and_start_again() -> None:
    run_guarded(
        f"""{POOL}
    clonal.freeze(threads="refuse")
    def product():
        return bool(((numpy.ones((300, 300)) @ numpy.ones((300, 300))) == 300).all())
    assert product() and in_child(product) == "True"
    """,
        env={"OPENBLAS_NUM_THREADS": "2"},
    )


def test_a_thread_pool_is_in_the_way_with_the_atfork_guard_alone_off() -> None:
    run_guarded(
        f"""{POOL}
    try:
        clonal.freeze(threads="refuse")
    except clonal.FreezeRefused as error:
        assert "other threads run" in str(error)
    else:
        raise AssertionError("the pool stopped by itself: is the guard still needed?")
    """,
        env={"OPENBLAS_NUM_THREADS": "2", "CLONAL_DISABLE_GUARD": "atfork"},
    )


HASHES = """
    import clonal
    names = ["name %d" % number for number in range(200_000)]  # 12 MB, no hash computed yet
    report = clonal.freeze()
    if not report.immortal_objects:
        skip("no immortal heap here: reading alone writes every object")
    def read_all():
        before = status_bytes("RssAnon")
        for name in names:
            hash(name)
        return status_bytes("RssAnon") - before
    copied = int(in_child(read_all))
"""


def test_a_clone_that_hashes_frozen_strings_copies_nothing() -> None:
    run_guarded(f"{HASHES}    assert copied < 1 << 20, copied\n")


def test_a_clone_that_hashes_copies_every_string_with_the_hygiene_guard_alone_off() -> None:
    run_guarded(f"{HASHES}    assert copied > 8 << 20, copied\n", env={"CLONAL_DISABLE_GUARD": "hygiene"})
