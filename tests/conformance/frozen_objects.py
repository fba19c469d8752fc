"""A suite that changes objects which existed before the freeze; suites.py runs it as one of CPython's."""

from __future__ import annotations

import array
import collections
import copy
import io
import random
import unittest
import weakref
from typing import Any


class Node:
    """An instance with a dict and a weak reference."""

    def __init__(self, value: int) -> None:
        self.value = value
        self.next: Any = None


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self) -> None:
        self.a, self.b = 1, [2]


SIZE = 2000
LIST = list(range(SIZE))
DICT = {f"key {i}": i for i in range(SIZE)}
SET = {f"member {i}" for i in range(SIZE)}
BYTES = bytearray(range(256)) * 400
ARRAY = array.array("q", range(SIZE))
DEQUE = collections.deque(range(SIZE), maxlen=SIZE + 10)
ORDERED = collections.OrderedDict((i, str(i)) for i in range(SIZE))
NODES = [Node(i) for i in range(SIZE)]
SLOTTED = [Slotted() for _ in range(100)]
COUNTER = collections.Counter("abracadabra" * 10)
BUFFER = io.BytesIO(b"x" * 5000)
GENERATOR = (i * i for i in range(SIZE))
WEAK: weakref.WeakValueDictionary[int, Node] = weakref.WeakValueDictionary(
    (i, n) for i, n in enumerate(NODES)
)
RANDOM = random.Random(7)


class Mutations(unittest.TestCase):
    """Each does the same to a frozen object and to a fresh copy and compares them at the end."""

    def both(self, frozen: Any, change: Any) -> None:
        twin = copy.deepcopy(frozen)
        for target in (frozen, twin):
            change(target, random.Random(3))
        self.assertEqual(frozen, twin)

    def test_list(self) -> None:
        def change(target: Any, rng: random.Random) -> None:
            for i in range(SIZE * 3):
                target.insert(rng.randrange(len(target) + 1), i)
                if i % 3:
                    del target[rng.randrange(len(target))]
            target[5:50] = range(1000)
            target.sort(key=lambda value: -value)
            target.extend(target[:200])
            target.reverse()

        self.both(LIST, change)

    def test_dict(self) -> None:
        def change(target: Any, rng: random.Random) -> None:
            for i in range(SIZE * 2):
                target[f"new {i}"] = i
                target.pop(f"key {rng.randrange(SIZE)}", None)
            target.update(dict.fromkeys(range(SIZE)))
            for key in list(target)[::2]:
                del target[key]

        self.both(DICT, change)

    def test_set(self) -> None:
        def change(target: Any, rng: random.Random) -> None:
            for i in range(SIZE * 2):
                target.add(i)
                target.discard(f"member {rng.randrange(SIZE)}")
            target ^= set(range(0, SIZE, 3))

        self.both(SET, change)

    def test_bytes_grow_and_shrink(self) -> None:
        def change(target: Any, rng: random.Random) -> None:
            for size in (10, 100_000, 1 << 20):
                target.extend(bytes([rng.randrange(256)]) * size)
                del target[: size // 2]
            target[::7] = bytes(len(target[::7]))

        self.both(BYTES, change)

    def test_array_and_deque(self) -> None:
        def change(target: Any, rng: random.Random) -> None:
            for _ in range(SIZE * 3):
                target.append(rng.randrange(1000))
                if rng.random() < 0.6:
                    target.pop()

        self.both(ARRAY, change)
        self.both(DEQUE, change)

    def test_ordered_dict_and_counter(self) -> None:
        def reorder(target: Any, rng: random.Random) -> None:
            for _ in range(SIZE):
                target.move_to_end(rng.choice(list(target)[:50]))
            target.popitem(last=False)

        self.both(ORDERED, reorder)
        self.both(COUNTER, lambda target, rng: target.update("zebra" * rng.randrange(100)))

    def test_instances(self) -> None:
        for node in NODES:
            node.next = Node(node.value + 1)
            node.value *= 2
            setattr(node, f"attribute_{node.value % 50}", [node])
        self.assertEqual([n.value for n in NODES], [2 * i for i in range(SIZE)])
        self.assertEqual([n.next.value for n in NODES], [i + 1 for i in range(SIZE)])
        for node in NODES[::2]:
            del node.next
        Node.extra = property(lambda self: self.value + 1)  # type: ignore[attr-defined]
        self.assertEqual(NODES[3].extra, 7)  # type: ignore[attr-defined]

    def test_slots(self) -> None:
        for each in SLOTTED:
            each.b.append(each.a)
            each.a = [each]  # type: ignore[assignment]
            del each.b
        self.assertRaises(AttributeError, lambda: SLOTTED[0].b)

    def test_stream_and_generator(self) -> None:
        BUFFER.seek(0, 2)
        BUFFER.write(b"y" * 100_000)
        BUFFER.truncate(6000)
        self.assertEqual(BUFFER.getvalue(), b"x" * 5000 + b"y" * 1000)
        start = next(GENERATOR)
        self.assertEqual(next(GENERATOR), (round(start**0.5) + 1) ** 2)

    def test_weak_references_live(self) -> None:
        self.assertEqual(len(WEAK), SIZE)
        self.assertIs(WEAK[7], NODES[7])
        fresh = Node(-1)
        WEAK[-1] = fresh
        del fresh
        self.assertNotIn(-1, WEAK)

    def test_random_goes_on(self) -> None:
        twin = random.Random(7)
        self.assertEqual([RANDOM.random() for _ in range(1000)], [twin.random() for _ in range(1000)])

    def test_classes_and_functions_change(self) -> None:
        def replaced(self: Node) -> int:
            return self.value

        Node.total = replaced  # type: ignore[attr-defined]
        self.assertEqual(NODES[1].total(), NODES[1].value)  # type: ignore[attr-defined]
        Node.total = lambda self: -1  # type: ignore[attr-defined]
        self.assertEqual(NODES[1].total(), -1)  # type: ignore[attr-defined]
        del Node.total  # type: ignore[attr-defined]
        self.assertRaises(AttributeError, lambda: NODES[1].total())  # type: ignore[attr-defined]


if __name__ == "__main__":
    unittest.main()
