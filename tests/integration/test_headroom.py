"""A clone that does not fit is refused, with the limit's name, and the kernel would agree.

Limits are hit in small cgroups, or by mappings that nothing is ever written to.
"""

from __future__ import annotations

import os

import pytest

from clonal.errors import CloneRefused
from clonal.kernel import cgroup, headroom, memory
from clonal.kernel.headroom import Headroom
from tests.groups import in_group
from tests.overcommit import overcommit_mode
from tests.support import IS_ROOT, run_script

MB = 1 << 20


@pytest.mark.parametrize("small", [{"memory": 96 * MB}], indirect=True)
def test_what_a_memory_group_would_be_killed_for_is_refused(small: list[cgroup.Group]) -> None:
    in_group(
        small,
        f"""
error = refused(private_bytes=100 * MB)
assert error.limit == "memory cgroup {small[0].name}" and error.unit == "bytes", error
assert error.need == 100 * MB and error.have < 96 * MB and "raise its limit" in str(error), error
assert refused(n=100, private_bytes=1 * MB) and not refused(n=10, private_bytes=1 * MB)
watch = OomWatch()
assert write(48 * MB) == 0 and not refused(private_bytes=48 * MB)
status = write(120 * MB)
assert status == signal.SIGKILL and watch.explains(status), status
assert not watch.explains(status)
pid = os.fork()
if pid == 0:
    signal.pause()
os.kill(pid, signal.SIGKILL)
status = os.waitpid(pid, 0)[1]
assert status == signal.SIGKILL and not watch.explains(status)
""",
    )


@pytest.mark.parametrize("small", [{"memory": 96 * MB}], indirect=True)
def test_page_cache_that_can_go_is_no_reason_to_refuse(small: list[cgroup.Group]) -> None:
    in_group(
        small,
        """
with open("file", "wb") as file:
    for _ in range(60):
        file.write(b"x" * MB)
    file.flush()
    os.fsync(file.fileno())
assert not refused(private_bytes=60 * MB)
assert write(60 * MB) == 0
""",
    )


@pytest.mark.parametrize("small", [{"pids": 8}], indirect=True)
def test_a_full_pids_group_is_refused_as_fork_would(small: list[cgroup.Group]) -> None:
    in_group(
        small,
        f"""
head = Headroom()
children = []
for _ in range(7):
    head.check(private_bytes=4096)
    pid = os.fork()
    if pid == 0:
        signal.pause()
    children.append(pid)
error = refused()
assert error.limit == "pids cgroup {small[0].name}", error
assert (error.need, error.have, error.unit) == (1, 0, "tasks"), error
try:
    os.fork()
    raise AssertionError("the kernel let us")
except BlockingIOError:
    pass
for pid in children:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
head.check(private_bytes=4096)
""",
    )


def test_an_ancestor_of_the_group_limits_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tight(cgroup.Group):
        def limit(self) -> int | None:
            return 10 * MB if self.name == "/outer" else None

        def usage(self) -> int:
            return 0

    nested = [Tight("memory", 2, name, "/nowhere") for name in ("/outer/inner", "/outer", "/")]
    monkeypatch.setattr(cgroup, "groups", lambda name, pid=None: nested if name == "memory" else [])
    with pytest.raises(CloneRefused, match="memory cgroup /outer needs"):
        Headroom().check(private_bytes=20 * MB)


def test_the_users_process_limit_is_refused_as_fork_would() -> None:
    if not IS_ROOT:
        pytest.skip("needs root, to become a user who runs nothing else")
    run_script(
        """
        import os, resource
        from clonal.errors import CloneRefused
        from clonal.kernel import headroom
        mine = headroom._tasks_of(os.getuid())
        resource.setrlimit(resource.RLIMIT_NPROC, (mine + 1, mine + 1))
        headroom.Headroom().check(private_bytes=4096)
        resource.setrlimit(resource.RLIMIT_NPROC, (mine, mine))
        try:
            headroom.Headroom().check(private_bytes=4096)
        except CloneRefused as error:
            assert error.limit == "RLIMIT_NPROC" and "ulimit -u" in str(error), error
        else:
            raise AssertionError("not refused")
        try:
            if os.fork() == 0:
                os._exit(0)
        except BlockingIOError:
            pass
        else:
            raise AssertionError("the kernel let us")
        """,
        user="nobody",
    )


def test_more_than_the_machine_has_is_refused() -> None:
    total = memory.meminfo()["MemTotal"]
    with pytest.raises(CloneRefused) as caught:
        Headroom().check(private_bytes=2 * total)
    assert caught.value.limit in ("RAM", *(f"memory cgroup {each.name}" for each in cgroup.groups("memory")))
    with pytest.raises(CloneRefused) as caught:
        Headroom().check(n=1 << 30, private_bytes=0)
    assert caught.value.unit == "tasks"


COMMIT = """
import mmap, os
from clonal.errors import CloneRefused
from clonal.kernel import memory, procfs
from clonal.kernel.headroom import Headroom
FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
MB = 1 << 20
def refused():
    try:
        Headroom().check(private_bytes=4096)
    except CloneRefused as error:
        return error
def fork_fails():
    try:
        pid = os.fork()
    except OSError as error:
        assert error.errno == 12, error
        return True
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return False
"""


@pytest.mark.parametrize("as_user", [None, "nobody"])
def test_the_commit_limit_of_mode_2_is_refused_as_fork_would(as_user: str | None) -> None:
    """Maps what leaves just too little to be charged again, then just enough."""
    with overcommit_mode(memory.OVERCOMMIT_NEVER):
        info = memory.meminfo()
        if info["CommitLimit"] - info["Committed_AS"] < 4 << 30:
            pytest.skip("less than 4 GB of commit left: it would hinder others")
        run_script(
            COMMIT
            + """
def left():
    status = procfs.status()
    admin = bool(status.mask("CapEff") >> 21 & 1)
    return memory.commit_headroom(status.size("VmSize"), sys_admin=admin)
slack = 128 * MB
def attempt(beyond):
    # (refusal, whether fork failed) with a mapping so much beyond what can be charged twice; None
    # if others committed or freed memory meanwhile.
    before = memory.meminfo()["Committed_AS"]
    half = (left() - memory.fork_charge().total) // 2
    with mmap.mmap(-1, (half + beyond) // 4096 * 4096, flags=FLAGS):
        result = refused(), fork_fails()
    return result if abs(memory.meminfo()["Committed_AS"] - before) < slack // 4 else None
def quiet(beyond):
    for _ in range(50):
        if result := attempt(beyond):
            return result
    raise SystemExit("the commit of others never stood still")
error, failed = quiet(slack)
assert failed and error and error.limit.startswith("commit limit"), error
assert error.have < error.need < error.have + 4 * slack, error
assert quiet(-slack) == (None, False)
""",
            user=as_user,
        )


def test_mode_0_refuses_one_mapping_larger_than_the_machine() -> None:
    """Two neighbours that could each be mapped are one at fork."""
    with overcommit_mode(memory.OVERCOMMIT_GUESS):
        run_script(
            COMMIT
            + """
info = memory.meminfo()
size = (info["MemTotal"] + info["SwapTotal"]) * 6 // 10 // 4096 * 4096
one = mmap.mmap(-1, size, flags=FLAGS)
assert not refused() and not fork_fails()
two = mmap.mmap(-1, size, flags=FLAGS)
if max(vma.size for vma in procfs.maps()) < 2 * size:
    raise SystemExit("the kernel did not put them side by side")
error = refused()
assert error and "vm.overcommit_memory=0" in error.limit and "MAP_NORESERVE" in str(error), error
assert fork_fails()
"""
        )


def test_mode_1_takes_any_mapping() -> None:
    with overcommit_mode(memory.OVERCOMMIT_ALWAYS):
        run_script(
            COMMIT
            + """
big = mmap.mmap(-1, 3 * memory.meminfo()["MemTotal"] // 4096 * 4096, flags=FLAGS)
assert not refused() and not fork_fails()
"""
        )


def test_checks_in_between_read_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    head = Headroom(refresh=1000)
    head.check(private_bytes=4096)
    monkeypatch.setattr(memory, "meminfo", lambda: pytest.fail("read again"))
    for _ in range(100):
        head.check(private_bytes=1, n=0)


def test_what_was_allowed_counts_until_it_shows_or_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    have = 1000 * MB
    monkeypatch.setattr(
        headroom, "_memory_allowances", lambda *_: [headroom.Allowance("RAM", have, "bytes", "")]
    )
    head = Headroom(refresh=1000)
    head.check(2, private_bytes=400 * MB)
    with pytest.raises(CloneRefused, match="needs"):
        head.check(private_bytes=400 * MB)
    head.done(private_bytes=400 * MB)
    head.check(private_bytes=400 * MB)
    head.done(3, private_bytes=400 * MB)
    assert head._promised == 0


def test_a_shortage_is_never_told_from_an_old_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    left = [1]
    monkeypatch.setattr(
        headroom, "_task_allowances", lambda _: [headroom.Allowance("tasks", left[0], "tasks", "")]
    )
    head = Headroom(refresh=1000)
    head.check()
    left[0] = 5
    head.check(4)
    left[0] = 0
    with pytest.raises(CloneRefused):
        head.check(2)


def test_a_template_that_is_gone_is_an_error_not_a_yes() -> None:
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)
    with pytest.raises(ProcessLookupError):
        Headroom(pid).check()


def test_a_process_makes_itself_the_oom_killers_choice(user: str | None) -> None:
    run_script(
        """
        from clonal.kernel.oom import raise_own_score
        before = int(open("/proc/self/oom_score_adj").read())
        assert raise_own_score(100) == min(1000, before + 100)
        assert raise_own_score(5000) == 1000 == int(open("/proc/self/oom_score_adj").read())
        """,
        user=user,
    )
