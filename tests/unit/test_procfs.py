"""What /proc says, checked against what this process has just done and against psutil."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from clonal.kernel import procfs
from tests.support import run_script

PAGE = procfs.PAGE
ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


def test_a_mapped_file_is_listed_whatever_its_name_holds(tmp_path: Path) -> None:
    path = tmp_path / "a name\rwith all\nsorts"
    path.write_bytes(b"x" * 3 * PAGE)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 2 * PAGE, prot=mmap.PROT_READ, offset=PAGE):
        (vma,) = [vma for vma in procfs.maps() if vma.path == str(path)]
    assert (vma.size, vma.offset, vma.inode) == (2 * PAGE, PAGE, path.stat().st_ino)
    assert not vma.writable and not vma.private and not vma.anonymous


def test_maps_agree_with_psutil() -> None:
    ours = {(f"{vma.start:08x}-{vma.end:08x}", vma.perms) for vma in procfs.maps()}
    theirs = {(each.addr, each.perms) for each in psutil.Process().memory_maps(grouped=False)}
    assert len(ours & theirs) > 0.9 * len(theirs)  # reading itself may map
    assert abs(procfs.vma_count() - len(ours)) < 10


def test_smaps_has_sizes_and_flags_of_one_mapping() -> None:
    size = 64 * PAGE
    with mmap.mmap(-1, size, flags=ANONYMOUS, prot=mmap.PROT_READ | mmap.PROT_WRITE) as memory:
        memory.madvise(mmap.MADV_DONTFORK)
        memory[: 3 * PAGE] = b"x" * 3 * PAGE
        (entry,) = [each for each in procfs.smaps() if {"dc", "ac"} <= each.flags]
    assert entry.sizes["Size"] == entry.vma.size == size
    assert entry.sizes["Private_Dirty"] == 3 * PAGE


def test_mappings_that_say_the_same_are_told_apart_and_a_kernel_may_say_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = (
        b"7f0000000000-7f0000001000 rw-p 00000000 00:00 0 \nSize: 4 kB\nRss: 0 kB\nVmFlags: rd wr \n"
        b"7f0000002000-7f0000003000 r--s 00000000 fe:00 7  /a: b\r\nSize: 4 kB\nRss: 0 kB\nVmFlags: rd wr \n"
        b"7f0000004000-7f0000006000 rw-p 00000000 00:00 0\nSize: 8 kB\nTHPeligible: 1\n"
    )
    monkeypatch.setattr(procfs, "read", lambda name, pid: text)
    first, second, third = procfs.smaps()
    assert (first.vma.start, second.vma.start, second.vma.path) == (
        0x7F0000000000,
        0x7F0000002000,
        "/a: b\r",
    )
    assert first.sizes == second.sizes == {"Size": 4096, "Rss": 0}
    assert first.flags == second.flags == {"rd", "wr"}
    assert third.sizes == {"Size": 8192, "THPeligible": 1} and not third.flags
    text = b""
    assert procfs.smaps() == []


def test_a_rollup_is_the_sum_of_smaps() -> None:
    rollup, total = procfs.smaps_rollup(), procfs._sum_smaps(None)
    for key in ("Rss", "Anonymous", "Private_Dirty"):
        assert abs(rollup[key] - total[key]) <= rollup[key] // 10


def test_written_pages_are_private_and_read_ones_are_not() -> None:
    before = procfs.private_bytes()
    with mmap.mmap(-1, 2000 * PAGE, flags=ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        for page in range(1000):
            memory[page * PAGE] = 1
        assert memory.find(b"y", 1000 * PAGE) == -1  # reads the rest
        grown = procfs.private_bytes() - before
    assert 900 * PAGE < grown < 1300 * PAGE


def test_pages_shared_with_a_child_are_private_to_neither(user: str | None) -> None:
    run_script(
        """
        import mmap, os, signal
        from clonal.kernel import procfs
        memory = mmap.mmap(-1, 32 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        memory[:] = b"x" * len(memory)
        alone = procfs.private_bytes()
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            memory[: 8 << 20] = b"y" * (8 << 20)
            os.write(write, b"%d" % procfs.private_bytes())
            signal.pause()
        child = int(os.read(read, 99))
        together = procfs.pss_total([os.getpid(), pid, 2**22 + 1])
        assert abs(procfs.private_bytes(pid) - child) < 1 << 20
        mine = procfs.private_bytes()
        os.kill(pid, 9); os.waitpid(pid, 0)
        assert alone > 32 << 20, alone
        assert 8 << 20 <= child < 12 << 20, child
        assert 8 << 20 <= mine < alone - (22 << 20), mine
        assert 40 << 20 <= together < 70 << 20, together
        """,
        user=user,
    )


def test_pagemap_tells_present_from_untouched() -> None:
    with mmap.mmap(-1, 8 * PAGE, flags=ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_DONTFORK)  # makes it a mapping of its own
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        memory[2 * PAGE] = memory[3 * PAGE] = 1
        (vma,) = [each.vma for each in procfs.smaps() if "dc" in each.flags]
        entries = procfs.pagemap(vma.start, vma.end)
    assert [bool(entry & procfs.PM_PRESENT) for entry in entries] == [False] * 2 + [True] * 2 + [False] * 4
    assert entries[2] & procfs.PM_EXCLUSIVE and not entries[2] & procfs.PM_FILE


def test_status_and_stat_agree_with_psutil() -> None:
    process, status, stat = psutil.Process(), procfs.status(), procfs.stat()
    assert (status.integer("PPid"), stat.ppid) == (process.ppid(), process.ppid())
    assert status.integer("Uid") == process.uids().real
    assert status.integer("Threads") == stat.num_threads == process.num_threads()
    assert abs(status.size("VmRSS") - process.memory_info().rss) < 4 << 20
    assert status.size("VmNoSuchField") == 0


def test_a_command_name_with_parentheses_does_not_shift_the_fields() -> None:
    path = Path("/proc/self/comm")
    name = path.read_text().strip()
    try:
        path.write_text("a) R (b")
        stat = procfs.stat()
    finally:
        path.write_text(name)
    assert (stat.comm, stat.pid, stat.ppid) == ("a) R (b", os.getpid(), os.getppid())


def test_threads_are_listed_with_their_names() -> None:
    ready, done = threading.Event(), threading.Event()

    def body() -> None:
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text("a name")
        ready.set()
        done.wait()

    thread = threading.Thread(target=body)
    thread.start()
    ready.wait()
    found = procfs.threads()
    done.set()
    thread.join()
    assert found[0].tid == os.getpid()
    assert (thread.native_id, "a name") in found


@pytest.mark.parametrize(
    "reader",
    [procfs.maps, procfs.smaps, procfs.smaps_rollup, procfs.status, procfs.stat, procfs.threads,
     procfs.pss, procfs.private_bytes, lambda pid: procfs.pagemap(0, PAGE, pid)],
)  # fmt: skip
def test_a_process_that_is_gone_is_named(reader: object) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    with pytest.raises(ProcessLookupError, match=f"process {child.pid} is gone"):
        reader(child.pid)  # type: ignore[operator]


def test_a_zombie_has_no_memory_but_a_status() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    try:
        assert procfs.maps(child.pid) == []
        assert procfs.stat(child.pid).state == "Z"
        assert procfs.pss_total([child.pid]) == 0
        assert procfs.status(child.pid).size("VmRSS") == 0
    finally:
        child.wait()


def test_a_process_of_another_user_is_refused_by_name() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody who may not look at us")
    run_script(
        f"""
        from clonal.kernel import procfs
        for read in (procfs.maps, procfs.smaps_rollup, procfs.pss, procfs.private_bytes):
            try:
                read({os.getpid()})
            except PermissionError as error:
                assert "process {os.getpid()} may not be inspected" in str(error), error
            else:
                raise AssertionError(read)
        assert procfs.status({os.getpid()}).integer("Uid") == 0
        """,
        user="nobody",
    )
