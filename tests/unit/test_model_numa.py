"""On which node the model takes a frame (Linux 6.18)."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from clonal.model import PAGE, Config, Machine, Process
from clonal.model.errors import BadMachine, BadPolicy, OutOfFrames
from clonal.model.numa import (
    DEFAULT,
    Mode,
    Policy,
    allowed,
    checked,
    distance,
    effective,
    even,
    fallback,
    place,
)

PLENTY = [1000, 1000, 1000]
PAGES = np.arange(100, 106)
ROW = ((10, 20, 30), (20, 10, 20), (30, 20, 10))  # three nodes in a row


def test_by_default_a_copy_is_on_the_node_of_the_cpu_that_faults() -> None:
    assert place(DEFAULT, 2, PAGES, PLENTY).tolist() == [2] * 6


def test_the_mappings_policy_goes_before_the_tasks() -> None:
    """get_vma_policy."""
    bound, interleaved = Policy(Mode.BIND, (1,)), Policy(Mode.INTERLEAVE, (0, 1))
    assert effective(bound, interleaved) is bound
    assert effective(DEFAULT, interleaved) is interleaved
    assert effective(Policy(Mode.LOCAL), interleaved).mode is Mode.LOCAL


def test_interleaving_goes_by_offset_so_a_copy_is_where_the_page_was() -> None:
    policy = Policy(Mode.INTERLEAVE, (2, 0))
    assert place(policy, 1, PAGES, PLENTY).tolist() == [0, 2, 0, 2, 0, 2]
    assert place(policy, 0, PAGES[[4, 1]], PLENTY).tolist() == [0, 2]


def test_preferred_is_taken_while_there_is_room_and_then_what_is_near_to_it() -> None:
    policy = Policy(Mode.PREFERRED, (2,))
    assert place(policy, 0, PAGES, [1000, 3, 2], ROW).tolist() == [2, 2, 1, 1, 1, 0]


def test_bind_would_rather_run_out_than_leave_its_nodes() -> None:
    policy = Policy(Mode.BIND, (0, 2))
    assert place(policy, 2, PAGES, [3, 1000, 4], ROW).tolist() == [2, 2, 2, 2, 0, 0]
    with pytest.raises(OutOfFrames) as caught:
        place(policy, 2, PAGES, [3, 1000, 2], ROW)
    assert (caught.value.wanted, caught.value.free) == (6, 5)


def test_a_node_that_is_full_is_replaced_by_the_nearest_and_of_equals_by_the_next() -> None:
    """find_next_best_node."""
    assert [fallback(even(3), node) for node in range(3)] == [(0, 1, 2), (1, 2, 0), (2, 0, 1)]
    assert [fallback(ROW, node) for node in range(3)] == [(0, 1, 2), (1, 2, 0), (2, 1, 0)]
    assert place(DEFAULT, 1, PAGES, [2, 1, 3]).tolist() == [1, 2, 2, 2, 0, 0]


def test_interleaving_over_a_full_node_takes_the_others() -> None:
    policy = Policy(Mode.INTERLEAVE, (0, 1))
    assert place(policy, 0, PAGES, [0, 1000, 1000]).tolist() == [1] * 6


def test_all_nodes_may_be_tried_but_those_of_bind() -> None:
    assert allowed(DEFAULT, 1, ROW) == (1, 2, 0)
    assert allowed(Policy(Mode.PREFERRED, (0, 2)), 1, ROW) == (0, 1, 2)
    assert allowed(Policy(Mode.BIND, (2, 0)), 1, ROW) == (2, 0)


def test_distance_is_ten_where_all_is_local() -> None:
    here, there = np.zeros(4, np.int64), np.array([0, 0, 2, 2])
    assert distance(here, here, ROW) == 10
    assert distance(here, there, ROW) == 20


@pytest.mark.parametrize(
    ("mode", "nodes"), [(Mode.DEFAULT, (0,)), (Mode.LOCAL, (1,)), (Mode.BIND, ()), (Mode.INTERLEAVE, ())]
)
def test_nodes_that_a_mode_does_not_take_are_refused(mode: Mode, nodes: tuple[int, ...]) -> None:
    """mpol_new."""
    with pytest.raises(BadPolicy) as caught:
        Policy(mode, nodes)
    assert pickle.loads(pickle.dumps(caught.value)).nodes == nodes


def test_preferred_without_a_node_is_local() -> None:
    assert Policy(Mode.PREFERRED).mode is Mode.LOCAL


@pytest.mark.parametrize("bad", [[[10]], [[10, 20], [20, 11]], [[10, 10], [20, 10]], [[10, 20]]])
def test_impossible_distances_are_refused(bad: list[list[int]]) -> None:
    with pytest.raises(BadMachine):
        checked(bad, 2)


# ---- in the machine ----

HEAP = 1 << 30


def nodes_of(process: Process, pages: int) -> list[int]:
    frames = process.pages(HEAP, pages * PAGE).frame
    return process.machine.frames.banks.node_of(frames.astype(np.intp)).tolist()


@pytest.fixture
def two() -> Machine:
    """Two nodes of 1,000 frames with two CPUs each."""
    return Machine(Config(ram=2000 * PAGE, nodes=2, overcommit=1))


def test_a_clone_on_another_node_copies_to_it_and_reads_from_afar(two: Machine) -> None:
    template = two.spawn(cpu=0)
    template.write(template.mmap(100 * PAGE, at=HEAP), 100 * PAGE)
    clone = template.fork()
    clone.cpu = 3
    assert (clone.node, clone.distance()) == (1, 20)
    assert clone.fork().node == 1
    clone.write(HEAP, 25 * PAGE)
    assert nodes_of(clone, 100) == [1] * 25 + [0] * 75
    assert (clone.node_pages, clone.distance(), template.distance()) == ((75, 25), 17.5, 10)


def test_reuse_moves_no_page(two: Machine) -> None:
    template = two.spawn(cpu=0)
    template.write(template.mmap(10 * PAGE, at=HEAP), 10 * PAGE)
    clone = template.fork()
    clone.cpu = 2
    template.exit()
    assert clone.write(HEAP, 10 * PAGE).reused == 10
    assert nodes_of(clone, 10) == [0] * 10


def test_policies_are_inherited_and_a_copy_goes_where_they_say(two: Machine) -> None:
    template = two.spawn(cpu=0)
    template.mmap(20 * PAGE, at=HEAP)
    template.mbind(HEAP, 10 * PAGE, Mode.INTERLEAVE, (0, 1))
    template.set_mempolicy(Mode.BIND, (1,))
    template.write(HEAP, 20 * PAGE)
    assert len(template.space.vmas) == 2
    clone = template.fork()
    assert clone.write(HEAP, 20 * PAGE).copied == 20
    assert nodes_of(clone, 20) == nodes_of(template, 20) == [0, 1] * 5 + [1] * 10


def test_a_full_node_spills_over_but_what_is_bound_to_it_does_not(two: Machine) -> None:
    process = two.spawn(cpu=0)
    process.mmap(1600 * PAGE, at=HEAP)
    process.write(HEAP, 1200 * PAGE)
    assert process.node_pages == (1000, 200)
    process.set_mempolicy(Mode.BIND, (0,))
    with pytest.raises(OutOfFrames):
        process.write(HEAP + 1200 * PAGE, PAGE)
    assert two.frames.used == 1200


def test_frames_come_back_to_their_node(two: Machine) -> None:
    process = two.spawn(cpu=2)
    process.write(process.mmap(900 * PAGE, at=HEAP), 900 * PAGE)
    assert two.frames.banks.left == [1000, 100]
    process.exit()
    assert two.frames.banks.left == [1000, 1000]
    other = two.spawn(cpu=0)
    other.write(other.mmap(900 * PAGE, at=HEAP), 900 * PAGE)
    assert other.node_pages == (900, 0)


def test_a_huge_page_is_on_one_node() -> None:
    machine = Machine(Config(ram=1 << 30, nodes=2, thp="always"))
    process = machine.spawn()
    process.set_mempolicy(Mode.INTERLEAVE, (0, 1))
    process.write(process.mmap(4 << 20, at=HEAP), 4 << 20)
    assert nodes_of(process, 1024) in ([0] * 512 + [1] * 512, [1] * 512 + [0] * 512)


def test_nodes_and_cpus_that_are_not_there_are_refused(two: Machine) -> None:
    process = two.spawn()
    with pytest.raises(BadPolicy):
        process.set_mempolicy(Mode.BIND, (2,))
    with pytest.raises(BadMachine):
        process.cpu = 4
    for bad in ({"nodes": 0}, {"cpus_per_node": 0}, {"nodes": 2, "distances": ((10,),)}):
        with pytest.raises(BadMachine):
            Config(**bad)
