"""Where a fleet ends: the plan says what the model does when it is forked for real."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clonal.model import PAGE, CommitRefused, Config, Machine, Map, Prot, oom
from clonal.plan import limits
from clonal.plan.costs import DEFAULT
from clonal.plan.overtime import over_time
from clonal.plan.planner import outlook_of, plan
from clonal.plan.question import BadFleet, Fleet, Host
from clonal.plan.server import BadServer, Server
from clonal.plan.storm import storm
from clonal.plan.ways import way

MB = 1 << 20
SERVER = replace(Server.of(64 * MB, 0), python=False)
HOST = Host(ram=1024 * MB, cores=4)


def forks_granted(host: Host, most: int) -> int:
    """How many children the model's machine promises memory for."""
    machine = Machine(host.config)
    process = machine.spawn()
    process.mmap(SERVER.committed)
    for number in range(most):
        try:
            process.fork()
        except CommitRefused:
            return number
    return most


@pytest.mark.parametrize("ratio", [20, 50, 80])
def test_mode_2_refuses_the_clone_that_the_model_refuses(ratio: int) -> None:
    host = replace(HOST, overcommit=2, overcommit_ratio=ratio)
    found = limits.commit(way("cow", SERVER, Fleet(), DEFAULT), SERVER, host, 1000)
    assert found.allowed == forks_granted(host, 1000)
    assert found.at == found.allowed + 1


def test_clones_that_are_refused_take_no_memory() -> None:
    host = replace(HOST, overcommit=2, overcommit_ratio=20)
    found = outlook_of("cow", SERVER, Fleet(1000, written=1.0), host, DEFAULT)
    assert found.commit.allowed < 1000
    assert found.memory.worst == limits.base(SERVER) + found.commit.allowed * found.way.memory


def test_mode_0_refuses_only_what_could_never_fit() -> None:
    small = Server.of(2 * HOST.ram, 0)
    cow = way("cow", SERVER, Fleet(), DEFAULT)
    assert limits.commit(cow, SERVER, HOST, 1000).at is None
    assert limits.commit(way("cow", small, Fleet(), DEFAULT), small, HOST, 1000).at == 1


def test_an_image_promises_nothing_but_in_mode_2() -> None:
    image = way("image", SERVER, Fleet(), DEFAULT)
    found = [limits.commit(image, SERVER, replace(HOST, overcommit=mode), 1000).at for mode in (0, 1, 2)]
    assert found[:2] == [None, None] and found[2] is not None


def test_as_many_fit_as_memory_has_room_for() -> None:
    cow = way("cow", SERVER, Fleet(), DEFAULT)
    fit = limits.fit(cow, SERVER, HOST)
    used = limits.base(SERVER) + fit.clones * cow.memory
    assert used <= HOST.ram < used + cow.memory
    assert fit.bound == "RAM and swap"


def test_a_cgroup_limit_bounds_before_memory_does() -> None:
    cow = way("cow", SERVER, Fleet(), DEFAULT)
    found = limits.fit(cow, SERVER, replace(HOST, limit=200 * MB))
    assert found.bound == "memory cgroup limit"
    assert found.clones < limits.fit(cow, SERVER, HOST).clones


@pytest.mark.parametrize("code", [0, 32 * MB])
def test_the_victim_is_the_models(code: int) -> None:
    """Of equals the youngest, so a clone; a server that has mapped more is taken itself."""
    server = replace(Server.of(64 * MB, code), python=False)
    machine = Machine(Config(ram=HOST.ram, overcommit=1))
    parent = machine.spawn()
    heap = parent.mmap(server.heap)
    parent.write(heap, server.heap)
    if code:
        parent.read(parent.mmap(code, Prot.READ, Map.PRIVATE, machine.file(code // PAGE)), code)
    children = [parent.fork() for _ in range(3)]
    taken = oom.victim([parent, *children])
    found = limits.victim(way("cow", server, Fleet(written=0.0), DEFAULT), server, HOST)
    assert (taken is parent) == (found.who == "the server")


def test_a_fleet_that_stays_takes_what_its_clones_do() -> None:
    cow = way("cow", SERVER, Fleet(10), DEFAULT)
    found = outlook_of("cow", SERVER, Fleet(10), HOST, DEFAULT).memory
    assert found.worst == limits.base(SERVER) + 10 * cow.memory
    assert found.full is None


def test_memory_ends_when_more_clones_are_alive_than_fit() -> None:
    found = outlook_of("cow", SERVER, Fleet(1000, written=0.5), HOST, DEFAULT)
    assert found.memory.full is not None and found.memory.alive is not None
    assert found.memory.alive >= found.fit.clones
    half = outlook_of("cow", SERVER, Fleet(1000, written=0.5, starts=10.0), HOST, DEFAULT)
    assert half.memory.alive == half.fit.clones + 1  # started slowly, each has all of its memory by then
    assert found.victim is not None


def test_what_only_runs_another_program_copies_nothing() -> None:
    found = plan(SERVER, Fleet(100, execs=True), HOST, DEFAULT, exact=4)
    assert (found.copied_pages, found.plain.way.private) == (0, 0)


def test_clones_that_are_replaced_hold_less_than_clones_that_stay() -> None:
    """They spend a part of their lives writing what they will hold."""
    slow = Fleet(50, written=0.5, rate=8 * MB)
    staying = over_time(slow, 0, 0, 32 * MB, 0.01, 4.0, 1 << 40)
    replaced = over_time(replace(slow, lifetime=4.0), 0, 0, 32 * MB, 0.01, 4.0, 1 << 40)
    assert replaced.p50 < staying.p50 == staying.worst
    assert replaced.p50 <= replaced.worst <= 50 * 32 * MB


def test_a_storm_is_bound_by_the_slowest_of_cores_memory_and_the_clones_themselves() -> None:
    cow = way("cow", SERVER, Fleet(8), DEFAULT)
    bounds = {
        storm(cow, Fleet(8), HOST, DEFAULT).bound,
        storm(cow, Fleet(8), HOST, replace(DEFAULT, bandwidth=1e6)).bound,
        storm(cow, Fleet(8, rate=1.0), HOST, DEFAULT).bound,
    }
    assert bounds == {"faults", "memory bandwidth", "the clones' own rate"}


def test_twice_the_cores_end_a_storm_in_half_the_time() -> None:
    cow, costs = way("cow", SERVER, Fleet(64), DEFAULT), replace(DEFAULT, contention=0.0)
    slow, fast = (storm(cow, Fleet(64), replace(HOST, cores=cores), costs) for cores in (2, 4))
    assert fast.seconds == pytest.approx(slow.seconds / 2)


def test_another_node_is_farther() -> None:
    cow = way("cow", SERVER, Fleet(64), DEFAULT)
    near, far = (storm(cow, Fleet(64), replace(HOST, nodes=nodes), DEFAULT) for nodes in (1, 2))
    assert far.seconds > near.seconds


def test_fewer_simulated_clones_say_so() -> None:
    found = plan(SERVER, Fleet(100), HOST, DEFAULT, exact=4)
    assert (found.exact.clones, found.copied_pages) == (4, 100 * round(SERVER.heap_pages * 0.05))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Fleet(0), "clones"),
        (lambda: Fleet(1, written=1.5), "written"),
        (lambda: Fleet(1, lifetime=0.0), "lifetime"),
        (lambda: Server.of(0, 0), "heap"),
        (lambda: Server.of(MB, 0, vmas=1), "vmas"),
        (lambda: Server.of(MB, 0, libraries=-1), "libraries"),
    ],
)
def test_what_cannot_be_is_refused_with_its_name_and_value(make: object, what: str) -> None:
    with pytest.raises((BadFleet, BadServer), match=rf"^{what} is .* but must be ") as caught:
        make()  # type: ignore[operator]
    assert caught.value.what == what
