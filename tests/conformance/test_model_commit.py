"""What the model promises, refuses and kills for is what the running kernel does.

Nothing is written but in a small memory cgroup; vm.overcommit_memory is changed for moments only, gigabytes
away from its limit.
"""

from __future__ import annotations

import itertools
import os
import select
from collections.abc import Callable, Iterator
from random import Random

import numpy as np
import pytest

from clonal.kernel import cgroup, procfs
from clonal.model import PAGE, Config, Machine, Process, oom, pressure
from clonal.scenario import KernelRunner, ModelRunner, UnlikeMachines, compare, parse
from clonal.scenario.errors import PuppetLost
from clonal.scenario.pages import Pages
from clonal.scenario.steps import Step
from tests.overcommit import overcommit_mode
from tests.support import IS_ROOT

pytestmark = pytest.mark.newest

GB = 1 << 30
MB = 1 << 20


def meminfo(name: str) -> int:
    """A line of /proc/meminfo, in bytes."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(f"{name}:"))


def this_machine(mode: int) -> Config:
    """Its memory and settings."""

    def setting(name: str) -> int:
        with open(f"/proc/sys/vm/{name}") as file:
            return int(file.read())

    return Config(
        ram=meminfo("MemTotal"),
        swap=meminfo("SwapTotal"),
        overcommit=mode,
        overcommit_ratio=setting("overcommit_ratio"),
        admin_reserve=setting("admin_reserve_kbytes") << 10,
        user_reserve=setting("user_reserve_kbytes") << 10,
        admin=IS_ROOT,
    )


# ---- promises ----

FOLLOWED_BY = {
    "nothing": "",
    "no right to write": "p: mprotect a {all} r",
    "no right to write, and again": "p: mprotect a {all} r\np: mprotect a {all} rw",
    "not for children": "p: madvise a {all} dontfork",
    "empty for children": "p: madvise a {all} wipeonfork",
    "half unmapped": "p: munmap a {half}",
    "as much again": "p: map b {kind} {pages}",
}


def programs(sizes: list[int]) -> Iterator[tuple[str, str]]:
    """Every kind of mapping × size × what is done to it, and then a fork and another mapping."""
    for kind, pages in itertools.product(("anon", "noreserve", "guard", "shared"), sizes):
        for name, then in FOLLOWED_BY.items():
            words = {"all": f"0-{pages - 1}", "half": f"0-{pages // 2 - 1}", "kind": kind, "pages": pages}
            lines = [f"p: map a {kind} {pages}", then.format(**words), "p: fork c", f"c: map d anon {pages}"]
            yield f"{kind} of {pages} pages, {name}", "\n".join(lines)


def decisions(runner: KernelRunner | ModelRunner, text: str, others: int = 0) -> list[str]:
    """What became of each step; one on a mapping that was refused is left out. `others`: pages that the rest
    of the machine has committed."""
    runner.reset()
    if isinstance(runner, ModelRunner) and others:
        runner.machine.spawn().mmap(others * PAGE)
    found: list[str] = []
    for step in parse(text):
        missing = step.op in ("mprotect", "madvise", "munmap") and found[0] != "ok"
        found.append("left out" if missing else runner._take(step).result)
    return found


def disagreements(config: Config, sizes: list[int], others: int = 0) -> tuple[list[str], int, int]:
    """Programs that the model and the kernel decide otherwise, how many agreed, and how many of these had a
    refusal."""
    found, agreed, refused = [], 0, 0
    with KernelRunner() as kernel, ModelRunner(config) as model:
        for name, text in programs(sizes):
            real, expected = decisions(kernel, text), decisions(model, text, others)
            agreed += real == expected
            refused += "ENOMEM" in real
            if real != expected:
                found.append(f"{name}: the kernel {real}, the model {expected}")
    return found, agreed, refused


def test_mode_0_refuses_what_the_model_refuses_to_the_page() -> None:
    with overcommit_mode(0):
        config = this_machine(0)
        most = (config.ram + config.swap) // PAGE
        found, agreed, refused = disagreements(config, [1000, most // 2 + 1, most, most + 1])
    print(f"mode 0: {agreed} programs agree, {refused} of them with a refusal")
    assert not found
    assert agreed == 4 * 4 * len(FOLLOWED_BY) and refused >= 28


def test_mode_0_refuses_to_fork_mappings_that_it_granted_one_by_one() -> None:
    """They have become one: dup_mmap charges it as one."""
    with overcommit_mode(0):
        config = this_machine(0)
        part = (config.ram + config.swap) // PAGE * 6 // 10
        text = f"p: map a guard {2 * part}\np: mprotect a 0-{part - 1} rw\n"
        apart = text + f"p: mprotect a {part + 1}-{2 * part - 1} rw\np: fork c"
        joined = text + f"p: mprotect a {part}-{2 * part - 1} rw\np: fork c"
        with KernelRunner() as kernel, ModelRunner(config) as model:
            for program, outcome in ((apart, "ok"), (joined, "ENOMEM")):
                expected = ["ok", "ok", "ok", outcome]
                assert decisions(kernel, program) == decisions(model, program) == expected


def test_mode_1_refuses_nothing() -> None:
    with overcommit_mode(1):
        config = this_machine(1)
        most = (config.ram + config.swap) // PAGE
        found, agreed, refused = disagreements(config, [1000, most * 3 // 2])
    print(f"mode 1: {agreed} programs agree")
    assert not found and not refused


def test_mode_2_refuses_what_the_model_refuses() -> None:
    """Sizes are such that the answer does not hang on what else the machine commits meanwhile, nor on the
    counter's batches, one for each CPU (mm/mm_init.c mm_compute_batch): a fifth, well over a gigabyte, is
    left over or lacking. Of the reserves, which are smaller, tests/unit/test_model_commit.py has the
    rules."""
    config = this_machine(2)
    limit = config.ram // PAGE * config.overcommit_ratio // 100 + config.swap // PAGE
    free = limit - meminfo("Committed_AS") // PAGE
    if free * PAGE < 8 * GB:
        pytest.skip(f"{free * PAGE / GB:.1f} GB can be committed in mode 2: too few for others to spare some")
    sizes = [free // 100, free * 40 // 100, free * 65 // 100, free * 14 // 10]
    with overcommit_mode(2):
        found, agreed, refused = disagreements(config, sizes, meminfo("Committed_AS") // PAGE)
    print(f"mode 2: {agreed} programs agree, {refused} of them with a refusal")
    assert not found
    assert agreed == 4 * 4 * len(FOLLOWED_BY) and refused > 50


def test_machines_that_promise_by_different_rules_are_not_compared() -> None:
    with KernelRunner() as kernel, ModelRunner(Config(overcommit=(kernel.overcommit + 1) % 3)) as model:
        scenario = parse("p: map a anon 1")
        with pytest.raises(UnlikeMachines, match="overcommit_memory is"):
            compare(scenario, model, kernel)


# ---- points ----


@pytest.mark.parametrize("adjustment", [-1000, -300, 0, 250, 1000])
def test_the_score_is_what_the_model_says_of_the_same_memory(adjustment: int) -> None:
    """Within a point, a thousandth of all memory: a puppet has some pages besides."""
    with KernelRunner() as runner:
        kernel, model = Kernel(runner, None), Model()
        for machine in (kernel, model):
            machine.start("a", LIMIT * 9 // 10, adjustment)
        with open(f"/proc/{runner.pid('a')}/oom_score") as file:
            real = int(file.read())
    config = model.machine.config
    total = (config.ram + config.swap) // PAGE
    assert abs(oom.score(oom.points_of(model.processes["a"]), total) - real) <= 1


def test_the_score_of_every_process_is_what_its_own_figures_give() -> None:
    total = (meminfo("MemTotal") + meminfo("SwapTotal")) // PAGE
    compared = 0
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/oom_score") as score, open(f"/proc/{pid}/oom_score_adj") as adjusted:
                before, real, adjustment = memory_of(int(pid)), int(score.read()), int(adjusted.read())
                after = memory_of(int(pid))
        except OSError:
            continue  # it has ended
        if before is None or before != after or real == 0:
            continue  # the kernel's own, one at work, or one that is spared: init, or in vfork
        points = oom.badness(*before, adjustment, total)
        assert abs(oom.score(points, total) - real) <= 1, pid
        compared += 1
    print(f"oom_score: {compared} processes")
    assert compared


def memory_of(pid: int) -> tuple[int, int, int] | None:
    """Pages resident and swapped, and bytes of page tables; None for what has none."""
    status = procfs.status(pid)
    if "VmRSS" not in status.fields:
        return None
    return status.size("VmRSS") // PAGE, status.size("VmSwap") // PAGE, status.size("VmPTE")


# ---- kills ----

LIMIT = 48 * MB // PAGE
STEP = 32  # pages written at once
NEAR = 192  # pages: what a few CPUs have charged ahead (MEMCG_CHARGE_BATCH), and the kernel's own records
CLOSE = 64  # points: what a puppet has besides its heap


class Kernel:
    """Puppets, in a real memory cgroup if one is given."""

    def __init__(self, runner: KernelRunner, group: cgroup.Group | None) -> None:
        self.runner, self.group = runner, group
        runner.reset()

    def start(self, who: str, written: int, adjustment: int) -> None:
        self.runner._take(Step(who, "map", ("heap", "anon", LIMIT)))
        if self.group is not None:
            cgroup.enter(self.group, self.runner.pid(who))
        set_adjustment(self.runner.pid(who), adjustment)
        if written:
            self.write(who, 0, written)

    def fork(self, parent: str, child: str) -> None:
        self.runner._take(Step(parent, "fork", (child,)))

    def write(self, who: str, first: int, count: int) -> None:
        self.runner._take(Step(who, "write", ("heap", Pages(((first, count),)))))

    def grow(self, who: str) -> tuple[str, int]:
        """Writes page after page until somebody is killed: who that is, and how many pages were written."""
        assert self.group is not None
        kills = self.group.oom_kills()
        for written in range(0, LIMIT, STEP):
            try:
                self.write(who, written, STEP)
            except PuppetLost:
                return who, written
            if self.group.oom_kills() != kills:
                return self._ended(), written
        raise AssertionError("nobody was killed")

    def _ended(self) -> str:
        pidfds = {puppet.pidfd: who for who, puppet in self.runner._puppets.items()}
        ready, _, _ = select.select(list(pidfds), [], [], 10)
        return pidfds[ready[0]]


def set_adjustment(pid: int, adjustment: int) -> None:
    """Skips where the kernel does not allow it."""
    fd = os.open(f"/proc/{pid}/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"%d" % adjustment)
    except PermissionError:
        pytest.skip(f"oom_score_adj may not be lowered to {adjustment} here (CAP_SYS_RESOURCE)")
    finally:
        os.close(fd)


class Model:
    """The same in the model."""

    def __init__(self) -> None:
        self.machine = Machine(this_machine(0))
        self.group = self.machine.group("small", LIMIT)
        self.processes: dict[str, Process] = {}
        self.rivals: set[str] = set()  # those with about as many points as the victim

    def start(self, who: str, written: int, adjustment: int) -> None:
        process = self.processes[who] = self.machine.spawn()
        process.group, process.oom_score_adj = self.group, adjustment
        process.mmap(LIMIT * PAGE, at=GB)
        if written:
            process.write(GB, written * PAGE)

    def fork(self, parent: str, child: str) -> None:
        self.processes[child] = self.processes[parent].fork()

    def grow(self, who: str) -> tuple[str, int]:
        for written in range(0, LIMIT, STEP):
            before = self.points()
            pressed = pressure.touch(self.processes[who], GB // PAGE + written + np.arange(STEP))
            if pressed.killed:
                self.rivals = {name for name in before if before[name] > max(before.values()) - CLOSE}
                return next(
                    name for name, each in self.processes.items() if each is pressed.killed[0]
                ), written
        raise AssertionError("nobody was killed")

    def points(self) -> dict[str, int]:
        """Of all that may be killed."""
        found = {name: oom.points_of(process, LIMIT) for name, process in self.processes.items()}
        return {name: points for name, points in found.items() if points is not None}


Play = Callable[[Kernel | Model], tuple[str, int]]


def the_writer(machine: Kernel | Model) -> tuple[str, int]:
    machine.start("a", 1000, 0)
    machine.start("b", 2000, 0)
    machine.start("c", 0, 0)
    return machine.grow("c")


def the_largest(machine: Kernel | Model) -> tuple[str, int]:
    machine.start("a", 1000, 0)
    machine.start("b", 7000, 0)
    machine.start("c", 0, 0)
    return machine.grow("c")


def the_adjusted(machine: Kernel | Model) -> tuple[str, int]:
    machine.start("a", 500, 900)
    machine.start("b", 3000, 0)
    machine.start("c", 0, 0)
    return machine.grow("c")


def not_the_immune(machine: Kernel | Model) -> tuple[str, int]:
    machine.start("a", 7000, -1000)
    machine.start("b", 3000, 0)
    machine.start("c", 0, -500)
    return machine.grow("c")


def a_clone_that_only_shares(machine: Kernel | Model) -> tuple[str, int]:
    machine.start("a", 7000, 0)
    machine.fork("a", "b")
    machine.start("c", 0, 0)
    return machine.grow("c")


def any_of_several(seed: int) -> Play:
    """Processes of any size and adjustment, some with clones."""

    def play(machine: Kernel | Model) -> tuple[str, int]:
        random = Random(seed)
        for who in ("a", "b", "c")[: random.randint(1, 3)]:
            machine.start(who, random.randrange(3000), random.choice([0, 0, 100, 300, 700]))
            if random.random() < 0.4:
                machine.fork(who, f"{who}2")
        machine.start("d", 0, random.choice([0, 50]))
        return machine.grow("d")

    return play


PLAYS = [the_writer, the_largest, the_adjusted, not_the_immune, a_clone_that_only_shares]


@pytest.mark.parametrize("play", PLAYS)
@pytest.mark.parametrize("small", [{"memory": LIMIT * PAGE}], indirect=True)
def test_the_same_is_killed_at_the_same_moment(play: Play, small: list[cgroup.Group]) -> None:
    """Within NEAR pages: the kernel charges in batches, and its own records too. A clone that wrote nothing
    and its template have about the same points: one of them is killed."""
    model = Model()
    with KernelRunner() as runner:
        (killed, when), (_, moment) = play(Kernel(runner, small[0])), play(model)
    assert killed in model.rivals
    assert len(model.rivals) == (2 if play is a_clone_that_only_shares else 1)
    assert abs(when - moment) <= NEAR


@pytest.mark.parametrize("small", [{"memory": LIMIT * PAGE}], indirect=True)
def test_of_any_several_the_same_is_killed(small: list[cgroup.Group]) -> None:
    """Where two have nearly the same points, either."""
    clear = 0
    with KernelRunner() as runner:
        for seed in range(20):
            model = Model()
            expected, moment = any_of_several(seed)(model)
            killed, when = any_of_several(seed)(Kernel(runner, small[0]))
            assert killed in model.rivals, f"{seed}: the kernel killed {killed}, the model {expected}"
            assert abs(when - moment) <= NEAR, f"{seed}: the kernel after {when} pages, the model {moment}"
            clear += len(model.rivals) == 1
    print(f"OOM: 20 groups, in {clear} of them only one could be the victim")
    assert clear >= 12
