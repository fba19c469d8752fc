"""mremap never grows or moves the image's file mapping; callers see anonymous memory's behaviour."""

from __future__ import annotations

import pytest

from tests.integration.guard_fixtures import run_guarded


def test_growing_in_place_adds_anonymous_memory_and_copies_nothing(user: str | None) -> None:
    run_guarded(
        """
        region = Region.filled(4, room=16).to_image()
        guard()
        held = region.file_bytes()
        assert mremap(region.start, region.length, 12 * PAGE) == region.start
        grown = Region(region.start, 12 * PAGE)
        assert grown.kinds() == "iiiiaaaaaaaa" and grown.bytes() == FULL * 4 + ZERO * 8
        grown.write(1, first=4, pages=8)
        assert region.file_bytes() == held
    """,
        user=user,
    )


def test_the_file_grows_with_the_mremap_guard_alone_off() -> None:
    run_guarded("""
        region = Region.filled(4, room=16).to_image()
        guard("mremap")
        held = region.file_bytes()
        assert mremap(region.start, region.length, 12 * PAGE) == region.start
        assert kinds(region.start, region.start + 12 * PAGE) == "i" * 12
        Region(region.start, 12 * PAGE).bytes()  # a read alone fills the holes of the file
        assert region.file_bytes() > held, "the kernel has changed: is the guard still needed?"
    """)


def test_growth_without_room_is_refused_unless_it_may_move(user: str | None) -> None:
    run_guarded(
        """
        region = Region.filled(4).to_image()
        blocker = mmap(region.end, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED)
        guard()
        held = region.file_bytes()
        assert mremap(region.start, region.length, 8 * PAGE) == ENOMEM
        assert region.bytes() == FULL * 4
        moved = Region(mremap(region.start, region.length, 8 * PAGE, MAYMOVE), 8 * PAGE)
        assert moved.start != region.start and moved.bytes() == FULL * 4 + ZERO * 4
        assert moved.kinds() == "a" * 8 and region.kinds() == "----"
        assert region.file_bytes() == held
    """,
        user=user,
    )


def test_growing_again_what_has_grown_in_place_keeps_all_bytes() -> None:
    run_guarded("""
        region = Region.filled(2, room=4).to_image()
        guard()
        at, pages = region.start, 2
        for step in range(6):
            at = mremap(at, pages * PAGE, (pages + 3) * PAGE, MAYMOVE)
            assert at > 0
            Region(at, PAGE).write(step, first=pages, pages=3)
            pages += 3
        expected = FULL * 2 + b"".join(bytes([step]) * PAGE * 3 for step in range(6))
        assert Region(at, pages * PAGE).bytes() == expected
    """)


@pytest.mark.parametrize("new_pages", [2, 4, 9])
def test_a_move_to_a_fixed_place_leaves_anonymous_memory_there_and_nothing_behind(new_pages: int) -> None:
    run_guarded(f"""
        region, target = Region.filled(4).to_image(), Region.filled(10)
        guard()
        region.write(3, first=1)
        got = mremap(region.start, region.length, {new_pages} * PAGE, MAYMOVE | FIXED, target.start)
        assert got == target.start
        want = (FULL + bytes([3]) * PAGE + FULL * 2 + ZERO * 5)[: {new_pages} * PAGE]
        assert target.bytes(0, {new_pages}) == want
        assert target.bytes({new_pages}, 10 - {new_pages}) == FULL * (10 - {new_pages})
        assert region.kinds() == "----" and "i" not in target.kinds()
    """)


def test_dontunmap_leaves_zeroes_behind() -> None:
    run_guarded("""
        region = Region.filled(4).to_image()
        guard()
        moved = Region(mremap(region.start, region.length, region.length, MAYMOVE | DONTUNMAP), region.length)
        assert moved.start not in (region.start, EINVAL)
        assert moved.bytes() == FULL * 4 and region.bytes() == ZERO * 4
        assert moved.kinds() == region.kinds() == "aaaa"
    """)


def test_shrinking_unmaps_the_tail() -> None:
    run_guarded("""
        region, mixed = Region.filled(4).to_image(), Region.filled(4).to_image(0, 2)
        guard()
        for each in (region, mixed):
            assert mremap(each.start, each.length, PAGE, MAYMOVE) == each.start
            assert each.kinds() == "i---" and each.bytes(0, 1) == FULL
    """)


@pytest.mark.parametrize("prot", ["0", "PROT_READ"])
def test_a_move_keeps_the_protection_and_the_bytes_of_what_cannot_be_written(prot: str) -> None:
    run_guarded(f"""
        region = Region.filled(2).to_image()
        guard()
        mmap(region.end, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED)
        mprotect(region.start, region.length, {prot})
        moved = mremap(region.start, region.length, 3 * PAGE, MAYMOVE)
        assert moved > 0
        mprotect(moved, 3 * PAGE, RW)
        assert Region(moved, 3 * PAGE).bytes() == FULL * 2 + ZERO
    """)


def test_bad_arguments_get_the_kernels_own_errors_and_change_nothing() -> None:
    run_guarded("""
        region, plain = Region.filled(4).to_image(), Region.filled(4)
        guard()
        for each in (region, plain):
            at, n = each.start, each.length
            assert mremap(at + 1, n, 2 * n, MAYMOVE) == EINVAL
            assert mremap(at, n, 0, MAYMOVE) == EINVAL
            assert mremap(at, n, n, FIXED, at + 64 * PAGE) == EINVAL
            assert mremap(at, n, n, MAYMOVE | FIXED, at + PAGE) == EINVAL
            assert mremap(at, n, n, MAYMOVE | FIXED, at + PAGE + 1) == EINVAL
            assert mremap(at, n, 2 * n, MAYMOVE | DONTUNMAP) == EINVAL
            assert mremap(at, n, n, 0x100) == EINVAL
            assert mremap(at, n + PAGE, 3 * n, MAYMOVE) == EFAULT
            assert each.bytes() == FULL * 4
        assert region.kinds() == "iiii"
    """)


def test_growth_by_the_bare_system_call_and_by_pythons_mmap_module_is_guarded() -> None:
    run_guarded("""
        import mmap as python_mmap, platform
        number = {"x86_64": 25, "aarch64": 216}[platform.machine()]
        region = Region.filled(2, room=8).to_image()
        memory = python_mmap.mmap(-1, 4 * PAGE, flags=MAP_PRIVATE | MAP_ANONYMOUS)
        memory[:] = FULL * 4
        view = ctypes.c_char.from_buffer(memory)
        other = Region(ctypes.addressof(view), 4 * PAGE).to_image()
        del view
        guard()
        held = other.file_bytes()
        assert syscall(number, region.start, region.length, 4 * PAGE) == region.start
        assert kinds(region.start, region.start + 4 * PAGE) == "iiaa"
        memory.resize(256 * PAGE)
        assert memory[:] == FULL * 4 + ZERO * 252 and other.file_bytes() == held
    """)


def test_growth_is_refused_when_the_mappings_cannot_be_read() -> None:
    run_guarded("""
        import resource
        region = Region.filled(2, room=8).to_image()
        guard()
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        assert mremap(region.start, region.length, 4 * PAGE, MAYMOVE) == ENOMEM
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        assert region.kinds() == "ii" and region.bytes() == FULL * 2
    """)


def test_shared_memory_where_the_image_once_was_is_remapped_by_the_kernel() -> None:
    run_guarded("""
        region = Region.filled(2).to_image()
        guard()
        mmap(region.start, region.length, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED)
        region.write(5, pages=2)
        moved = mremap(region.start, region.length, region.length, MAYMOVE | FIXED, Region.filled(2).start)
        assert kinds(moved, moved + 2 * PAGE) == "ss"
        assert Region(moved, 2 * PAGE).bytes() == bytes([5]) * 2 * PAGE
    """)
