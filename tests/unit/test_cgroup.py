"""Groups of both cgroup versions: found, read, made and removed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clonal.kernel import cgroup, procfs
from clonal.kernel.cgroup import Group


@pytest.fixture
def fresh_mounts() -> Iterator[None]:
    cgroup.mounts.cache_clear()
    yield
    cgroup.mounts.cache_clear()


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text + "\n")


def fake_proc(monkeypatch: pytest.MonkeyPatch, mountinfo: str, groups: str) -> None:
    texts = {"mountinfo": mountinfo, "cgroup": groups}
    monkeypatch.setattr(procfs, "read", lambda name, pid=None: texts[name].encode())


def test_v2_groups_are_found_up_to_the_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_mounts: None
) -> None:
    write(tmp_path, cgroup_controllers="cpu memory pids")
    write(tmp_path / "a", memory_max="1000", memory_high="max", memory_current="600")
    write(tmp_path / "a/b", memory_max="max", memory_high="500", memory_current="450")
    (tmp_path / "a/memory.stat").write_text("anon 1\ninactive_file 200\nactive_file 9\n")
    (tmp_path / "a/b/memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    fake_proc(monkeypatch, f"30 1 0:26 / {tmp_path} rw - cgroup2 cgroup2 rw\n", "0::/a/b\n")
    found = cgroup.groups("memory")
    assert [group.name for group in found] == ["/a/b", "/a", "/"]
    assert [group.limit() for group in found] == [500, 1000, None]
    assert [group.usage() for group in found] == [450, 400, 0]
    assert found[0].oom_kills() == 2


def test_v1_groups_in_a_container_are_found_below_the_mounts_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_mounts: None
) -> None:
    write(tmp_path / "in ner", memory_limit_in_bytes="4096", memory_usage_in_bytes="1000")
    write(tmp_path, memory_limit_in_bytes=str((1 << 63) - 4096))
    (tmp_path / "in ner/memory.stat").write_text("inactive_file 1\ntotal_inactive_file 100\n")
    line = f"35 31 0:32 /docker/x {tmp_path} rw - cgroup cgroup rw,memory\n"
    fake_proc(monkeypatch, line, "4:memory:/docker/x/in ner\n0::/\n")
    found = cgroup.groups("memory")
    assert [group.name for group in found] == ["/docker/x/in ner", "/docker/x"]
    assert [(group.limit(), group.usage()) for group in found] == [(4096, 900), (None, 0)]
    assert cgroup.groups("pids") == []


def test_limits_of_pids(tmp_path: Path) -> None:
    write(tmp_path, pids_max="max", pids_current="7")
    group = Group("pids", 2, "/", str(tmp_path))
    assert (group.limit(), group.usage(), group.oom_kills()) == (None, 7, None)


def test_this_process_is_a_member_of_its_own_groups() -> None:
    for controller in cgroup.mounts():
        assert os.getpid() in cgroup.members(cgroup.groups(controller)[0])


def test_a_small_group_limits_who_enters_and_is_gone_afterwards() -> None:
    try:
        with cgroup.small_group(memory=64 << 20, pids=20) as (memory, pids):
            child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
            for group in (memory, pids):
                cgroup.enter(group, child.pid)
                assert cgroup.members(group) == [child.pid]
            assert cgroup.groups("memory", child.pid)[0] == memory
            assert (memory.limit(), pids.limit(), pids.usage()) == (64 << 20, 20, 1)
            child.kill()
            child.communicate()
    except (PermissionError, NotImplementedError) as error:
        pytest.skip(f"no cgroups to make here: {error}")
    assert not os.path.exists(memory.path) and not os.path.exists(pids.path)


def test_a_small_group_is_removed_with_what_still_runs_in_it() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with cgroup.small_group(pids=20) as (group,):
            cgroup.enter(group, child.pid)
    except (PermissionError, NotImplementedError) as error:
        pytest.skip(f"no cgroups to make here: {error}")
    finally:
        child.kill()
        child.communicate()
    assert not os.path.exists(group.path)
