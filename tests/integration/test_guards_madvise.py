"""madvise on image pages does what it does on the anonymous memory that they replaced."""

from __future__ import annotations

import pytest

from tests.integration.guard_fixtures import run_guarded


def test_dontneed_on_image_pages_yields_zeroes_and_leaves_their_neighbours(user: str | None) -> None:
    run_guarded(
        """
        region = Region.filled(8).to_image()
        guard()
        assert madvise(region.start + 2 * PAGE, 3 * PAGE, DONTNEED) == 0
        assert region.bytes() == FULL * 2 + ZERO * 3 + FULL * 3
        assert region.kinds() == "iiaaaiii"
        region.write(7, first=3)
        assert region.bytes(3, 1) == bytes([7]) * PAGE
    """,
        user=user,
    )


def test_dontneed_brings_old_bytes_back_with_the_madvise_guard_alone_off() -> None:
    run_guarded("""
        region = Region.filled(4).to_image()
        guard("madvise")
        region.write(1, pages=4)
        assert madvise(region.start, region.length, DONTNEED) == 0
        assert region.bytes() == FULL * 4, "the kernel has changed: is the guard still needed?"
    """)


def test_a_guard_is_switched_off_by_the_environment_too() -> None:
    run_guarded(
        """
        region = Region.filled(1).to_image()
        assert guards.install() == ["guard madvise is switched off"]
        guards.refresh()
        madvise(region.start, region.length, DONTNEED)
        assert region.bytes() == FULL
        """,
        env={"CLONAL_DISABLE_GUARD": "madvise"},
    )


@pytest.mark.parametrize(
    "how", ["syscall(28, {0}, {1}, {2})", "calls.call_process_madvise(pidfd, {0}, {1}, {2})"]
)
def test_dontneed_by_another_way_in_yields_zeroes(how: str) -> None:
    call = how.format("region.start", "region.length", "DONTNEED")
    run_guarded(f"""
        import platform
        if platform.machine() != "x86_64" and "syscall(28" in {how!r}:
            skip("the number is x86-64's")
        pidfd = os.pidfd_open(os.getpid())
        region = Region.filled(4).to_image()
        guard()
        answer = {call}
        if answer < 0:
            assert "process" in {how!r} and answer in (EINVAL, -38), answer
            skip("before Linux 6.13 process_madvise refuses to discard")
        assert region.bytes() == ZERO * 4 and region.kinds() == "aaaa"
    """)


def test_dontneed_through_pythons_own_mmap_module_yields_zeroes() -> None:
    run_guarded("""
        import mmap as python_mmap
        memory = python_mmap.mmap(-1, 4 * PAGE, flags=MAP_PRIVATE | MAP_ANONYMOUS)
        memory[:] = FULL * 4
        Region(ctypes.addressof(ctypes.c_char.from_buffer(memory)), 4 * PAGE).to_image()
        guard()
        memory.madvise(python_mmap.MADV_DONTNEED, PAGE, 2 * PAGE)
        assert memory[:] == FULL + ZERO * 2 + FULL
    """)


@pytest.mark.parametrize("text", [False, True])
def test_dontneed_over_image_anonymous_shared_and_stale_memory_changes_each_as_it_should(text: bool) -> None:
    run_guarded(f"""
        from clonal import _native
        _native.mappings_read_as_text({text})
        region = Region.filled(8).to_image(1, 6)
        shared = mmap(region.start + 5 * PAGE, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED)
        guard()
        region.write(3, first=5)
        mmap(region.start + 6 * PAGE, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED)  # now stale
        region.write(4, first=6)
        assert region.kinds() == "aiiiissa"
        assert madvise(region.start, region.length, DONTNEED) == 0
        assert region.kinds() == "aaaaassa"
        assert region.bytes() == ZERO * 5 + bytes([3]) * PAGE + bytes([4]) * PAGE + ZERO
    """)


def test_dontneed_across_a_hole_reports_it_and_still_zeroes_the_rest() -> None:
    run_guarded("""
        region = Region.filled(5).to_image()
        guard()
        munmap(region.start + 2 * PAGE, PAGE)
        assert madvise(region.start, region.length, DONTNEED) == ENOMEM
        assert region.kinds() == "aa-aa" and region.bytes(0, 2) == region.bytes(3, 2) == ZERO * 2
    """)


def test_dontneed_keeps_the_protection_of_each_piece() -> None:
    run_guarded("""
        region = Region.filled(3).to_image()
        guard()
        mprotect(region.start + PAGE, PAGE, PROT_READ)
        mprotect(region.start + 2 * PAGE, PAGE, 0)
        assert madvise(region.start, region.length, DONTNEED) == 0
        perms = {line.split("-")[0]: line.split()[1] for line in open("/proc/self/maps")}
        assert [perms[f"{region.start + at * PAGE:08x}"] for at in range(3)] == ["rw-p", "r--p", "---p"]
    """)


def test_dontneed_on_locked_image_pages_is_refused_and_changes_nothing() -> None:
    run_guarded("""
        region = Region.filled(2).to_image()
        guard()
        assert ctypes.CDLL(None).mlock(ctypes.c_void_p(region.start), ctypes.c_size_t(PAGE)) == 0
        assert madvise(region.start, PAGE, DONTNEED) == EINVAL
        assert region.bytes() == FULL * 2 and region.kinds() == "ii"
        assert madvise(region.start, PAGE, DONTNEED_LOCKED) == 0
        assert region.bytes() == ZERO + FULL
    """)


def test_free_on_image_pages_succeeds_and_never_shows_old_bytes() -> None:
    run_guarded("""
        region = Region.filled(4).to_image()
        guard()
        region.write(9, pages=4)
        assert madvise(region.start, region.length, FREE) == 0
        assert all(region.bytes(at, 1) in (ZERO, bytes([9]) * PAGE) for at in range(4))
    """)


def test_wipeonfork_on_image_pages_keeps_the_bytes_here_and_wipes_them_in_a_child(user: str | None) -> None:
    run_guarded(
        """
        region = Region.filled(4).to_image()
        guard()
        region.write(2, first=1)
        assert madvise(region.start, 2 * PAGE, WIPEONFORK) == 0
        assert region.bytes() == FULL + bytes([2]) * PAGE + FULL * 2
        assert in_child(lambda: region.bytes() == ZERO * 2 + FULL * 2) == "True"
    """,
        user=user,
    )


def test_remove_is_refused_as_on_anonymous_memory() -> None:
    run_guarded("""
        region, plain = Region.filled(2).to_image(), Region.filled(2)
        guard()
        assert madvise(region.start, PAGE, REMOVE) == madvise(plain.start, PAGE, REMOVE) == EINVAL
        assert region.bytes() == FULL * 2
    """)


@pytest.mark.parametrize(
    "advice", ["DONTFORK", "MERGEABLE", "11", "13", "14", "15", "16", "17", "20", "21", "22", "23"]
)
def test_other_advice_is_answered_as_on_anonymous_memory(advice: str) -> None:
    run_guarded(f"""
        region, plain = Region.filled(2).to_image(), Region.filled(2)
        guard()
        assert madvise(region.start, PAGE, {advice}) == madvise(plain.start, PAGE, {advice})
        assert region.bytes() == FULL * 2
    """)


def test_a_removed_guard_page_reads_as_zero_not_as_the_image() -> None:
    run_guarded("""
        region, plain = Region.filled(3).to_image(), Region.filled(3)
        guard()
        answer = madvise(plain.start, PAGE, GUARD_INSTALL)
        assert madvise(region.start + PAGE, PAGE, GUARD_INSTALL) == answer
        if answer:
            assert answer == EINVAL and region.bytes() == FULL * 3
            skip("before Linux 6.13 there are no guard pages")
        assert madvise(region.start + PAGE, PAGE, GUARD_REMOVE) == 0
        assert region.bytes() == FULL + ZERO + FULL
    """)


def test_bad_arguments_get_the_kernels_own_errors() -> None:
    run_guarded("""
        region = Region.filled(2).to_image()
        guard()
        assert madvise(region.start + 1, PAGE, DONTNEED) == EINVAL
        assert madvise(region.start, PAGE, 77) == EINVAL
        assert madvise(region.start, 0, DONTNEED) == 0
        assert madvise(region.start, (1 << 64) - PAGE, DONTNEED) == EINVAL
        assert region.bytes() == FULL * 2 and region.kinds() == "ii"
    """)


def test_dontneed_yields_zeroes_when_no_descriptor_is_left_to_read_the_mappings() -> None:
    run_guarded("""
        import resource
        region = Region.filled(4).to_image()
        guard()
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        assert madvise(region.start + PAGE, 2 * PAGE, DONTNEED) == 0
        assert region.bytes() == FULL + ZERO * 2 + FULL
    """)


def test_dontneed_yields_zeroes_when_no_more_mappings_are_allowed() -> None:
    run_guarded("""
        from clonal import _native
        region = Region.filled(64).to_image()
        guards.install()
        _native.interpose(3, 0)  # as with vm.max_map_count used up: no small piece may be mapped
        guards.refresh()
        for at in range(0, 64, 2):
            assert madvise(region.start + at * PAGE, PAGE, DONTNEED) == 0
        assert region.bytes() == (ZERO + FULL) * 32 and region.kinds() == "i" * 64
        assert _native.guard_counts()["zeroed"] == 32
    """)


def test_a_clone_and_a_clone_of_it_are_guarded_too() -> None:
    run_guarded("""
        region = Region.filled(2).to_image()
        guard()
        def discard():
            madvise(region.start, PAGE, DONTNEED)
            return region.bytes() == ZERO + FULL
        assert in_child(discard) == "True"
        assert in_child(lambda: in_child(discard)) == repr("True")
        assert region.bytes() == FULL * 2
    """)


def test_no_call_slips_through_between_the_switch_and_the_refresh() -> None:
    run_guarded("""
        guards.install()
        region = Region.filled(2).to_image()
        assert madvise(region.start, PAGE, DONTNEED) == 0
        assert region.bytes() == ZERO + FULL
    """)


def test_calls_on_memory_outside_the_image_reach_the_kernel_unchanged() -> None:
    run_guarded("""
        Region.filled(2).to_image()
        plain = Region.filled(4)
        guard()
        assert madvise(plain.start, PAGE, DONTNEED) == 0 and plain.bytes() == ZERO + FULL * 3
        from clonal import _native
        assert _native.guard_counts() == {"replaced": 0, "zeroed": 0, "moved": 0}
    """)
