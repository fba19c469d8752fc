"""What a fork is charged: the rules of dup_mmap, each against a mapping made for it."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable

import pytest

from clonal.kernel import memory, procfs

SIZE = 64 << 20
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
MADV_WIPEONFORK = 18
MAP_NORESERVE = 0x4000  # mmap.MAP_NORESERVE, from Python 3.13 on


def charged(flags: int, prepare: Callable[[mmap.mmap], None] = lambda _: None) -> int:
    before = memory.fork_charge().total
    with mmap.mmap(-1, SIZE, flags=flags) as mapping:
        prepare(mapping)
        return memory.fork_charge().total - before


def test_an_untouched_private_mapping_is_charged_in_full() -> None:
    assert abs(charged(PRIVATE) - SIZE) < 4 << 20


def test_wipeonfork_is_charged_and_dontfork_is_not() -> None:
    assert charged(PRIVATE, lambda mapping: mapping.madvise(MADV_WIPEONFORK)) > SIZE // 2
    assert charged(PRIVATE, lambda mapping: mapping.madvise(mmap.MADV_DONTFORK)) < SIZE // 2


def test_shared_and_unreserved_mappings_are_not_charged() -> None:
    assert charged(mmap.MAP_SHARED | mmap.MAP_ANONYMOUS) < SIZE // 2
    if memory.overcommit_mode() == memory.OVERCOMMIT_NEVER:
        pytest.skip("mode 2 ignores MAP_NORESERVE")
    assert charged(PRIVATE | MAP_NORESERVE) < SIZE // 2


def test_only_a_large_mapping_is_looked_at_closely(monkeypatch: pytest.MonkeyPatch) -> None:
    with mmap.mmap(-1, SIZE, flags=PRIVATE):
        assert memory.largest_charge(above=SIZE // 2) >= SIZE
        monkeypatch.setattr(procfs, "smaps", lambda pid: pytest.fail("walked page tables"))
        assert memory.largest_charge(above=1 << 60) == 0


def test_meminfo_is_in_bytes() -> None:
    total = os.sysconf("SC_PHYS_PAGES") * procfs.PAGE
    assert memory.meminfo()["MemTotal"] == total


def test_the_reserve_of_mode_2_follows_the_kernel() -> None:
    admin = memory.vm_setting("admin_reserve_kbytes") * 1024
    user = memory.vm_setting("user_reserve_kbytes") * 1024
    assert memory.commit_reserve(1 << 60, sys_admin=True) == user
    assert memory.commit_reserve(0, sys_admin=False) == admin
    assert memory.commit_reserve(32 << 20, sys_admin=False) == admin + min(1 << 20, user)
