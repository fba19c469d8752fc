"""Holders are finalised before what they hold."""

from __future__ import annotations

import itertools
import random

from clonal.image.order import holders_first


class Node:
    """Holds other nodes, a few references away."""

    def __init__(self, *held: Node) -> None:
        self.inner = {"held": [list(held)]}


def age(_: object) -> int:
    return 0


def test_every_holder_of_a_random_graph_precedes_what_it_holds() -> None:
    rng = random.Random(5)
    nodes: list[Node] = []
    held: dict[int, list[Node]] = {}
    for _ in range(200):
        chosen = rng.sample(nodes, min(len(nodes), rng.randrange(4)))
        nodes.append(Node(*chosen))
        held[id(nodes[-1])] = chosen
    order = {id(each): place for place, each in enumerate(holders_first(nodes, age))}
    assert len(order) == 200
    assert all(order[id(holder)] < order[id(each)] for holder in nodes for each in held[id(holder)])


def test_without_holders_the_rank_decides_and_then_the_age() -> None:
    nodes = [Node() for _ in range(6)]
    ranks = dict(zip(map(id, nodes), itertools.cycle([1, 0]), strict=False))
    order = holders_first(nodes, lambda each: ranks[id(each)])
    assert order == [*nodes[1::2], *nodes[::2]]


def test_objects_that_hold_each_other_are_all_there() -> None:
    first, second = Node(), Node()
    first.inner["held"].append([second])
    second.inner["held"].append([first])
    last = Node()
    second.inner["held"].append([last])
    order = holders_first([last, first, second], age)
    assert set(order[:2]) == {first, second} and order[2:] == [last]


def test_a_chain_longer_than_the_recursion_limit_is_sorted() -> None:
    nodes = [Node()]
    for _ in range(3000):
        nodes.append(Node(nodes[-1]))
    assert holders_first(nodes, age) == nodes[::-1]


def test_a_generator_holds_its_variables_but_not_its_modules_globals() -> None:
    mine = Node()

    def generator(variable: Node) -> object:
        yield variable

    running = generator(mine)
    next(running)  # type: ignore[call-overload]
    assert holders_first([mine, running], age) == [running, mine]
    stranger = Node()
    globals()["stranger"] = stranger
    try:
        assert holders_first([stranger, running], age) == [stranger, running]
    finally:
        del globals()["stranger"]
