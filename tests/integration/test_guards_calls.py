"""Redirecting calls breaks none: other system calls, threads, signals, objects loaded later."""

from __future__ import annotations

from tests.integration.guard_fixtures import run_guarded


def test_other_system_calls_pass_with_all_six_arguments() -> None:
    run_guarded("""
        import platform, threading
        x86 = platform.machine() == "x86_64"
        guard()
        assert syscall(186 if x86 else 178) == threading.get_native_id()
        got = syscall(9 if x86 else 222, 0, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)  # mmap
        assert got > 0 and ctypes.string_at(got, PAGE) == ZERO
        fd = os.memfd_create("six")
        os.pwrite(fd, bytes(PAGE) + b"offset", 0)
        got = syscall(9 if x86 else 222, 0, PAGE, PROT_READ, MAP_PRIVATE, fd, PAGE)
        assert ctypes.string_at(got, 6) == b"offset"  # the sixth argument
        assert syscall(9999) == -38
    """)


def test_threads_that_advise_and_grow_at_once_see_only_their_own_bytes() -> None:
    run_guarded("""
        import threading
        regions = [Region.filled(64).to_image() for _ in range(4)]
        guard()
        wrong = []
        def work(region, mark):
            for turn in range(40):
                first = turn % 60
                region.write(mark, first=first, pages=4)
                madvise(region.start + first * PAGE, 2 * PAGE, DONTNEED)
                if region.bytes(first, 4) != ZERO * 2 + bytes([mark]) * PAGE * 2:
                    wrong.append((mark, turn))
                at = mremap(region.start, region.length, region.length + PAGE, MAYMOVE)
                region.start = mremap(at, region.length + PAGE, region.length, MAYMOVE)
        threads = [threading.Thread(target=work, args=(r, i + 1)) for i, r in enumerate(regions)]
        for thread in threads: thread.start()
        while any(thread.is_alive() for thread in threads):
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
            guards.refresh()
        assert not wrong
    """)


def test_an_object_loaded_after_the_guards_is_redirected_by_the_next_install() -> None:
    run_guarded("""
        import shutil, tempfile
        region = Region.filled(2).to_image()
        guard()
        copy = shutil.copy(os.environ["GUARD_CALLS"], tempfile.mkdtemp())
        late = ctypes.CDLL(copy).call_madvise
        late.argtypes, late.restype = calls.call_madvise.argtypes, ctypes.c_long
        assert late(region.start, PAGE, DONTNEED) == 0 and region.bytes() == FULL * 2  # documented
        guard()
        assert late(region.start, PAGE, DONTNEED) == 0 and region.bytes() == ZERO + FULL
    """)


def test_installing_twice_changes_nothing_and_relro_stays_read_only() -> None:
    run_guarded("""
        from clonal import _native
        def readonly():
            with open("/proc/self/maps") as lines:
                parts = [line.split() for line in lines]
            return sorted((p[5], p[1]) for p in parts if len(p) == 6 and p[1][1] != "w")
        before = readonly()
        first = _native.interpose(3, 65530)
        again = _native.interpose(3, 65530)
        assert first["slots"]["madvise"] and first["slots"]["syscall"] and not first["refused"]
        assert not any(again["slots"].values())
        assert readonly() == before
    """)


def test_the_table_of_extents_follows_the_image_and_costs_a_fork_no_pages() -> None:
    run_guarded("""
        from clonal import _native
        assert _native.interpose_keep() == []
        region = Region.filled(4).to_image()
        guard()
        assert (region.start, region.end) in _native.image_extents()
        [(low, high)] = guards.keep()
        assert set(kinds(low, high)) == {"s"}
        munmap(region.start, region.length)
        guards.refresh()
        assert (region.start, region.end) not in _native.image_extents()
    """)


def test_memory_that_is_no_image_any_more_leaves_the_table_after_some_calls() -> None:
    run_guarded("""
        from clonal import _native
        region = Region.filled(64).to_image()
        guard()
        def named():
            return any(low < region.end and region.start < high for low, high in _native.image_extents())
        def reuse():
            for _ in range(40):
                region.write(1, pages=64)
                assert madvise(region.start, region.length, DONTNEED) == 0
                assert region.bytes() == ZERO * 64
            return named()
        assert named() and in_child(reuse) == "False"
        assert named() and not reuse()
        Region.filled(4).to_image()
        guard()
        other = Region.filled(4).to_image()
        guard()
        assert (other.start, other.end) in _native.image_extents()
    """)


def test_an_unknown_guard_is_an_error_that_names_them_all() -> None:
    run_guarded("""
        try:
            guards.install(["madvize"])
        except ValueError as error:
            assert "madvize" in str(error) and "mremap" in str(error)
        else:
            raise AssertionError
    """)
