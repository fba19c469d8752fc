"""Causes and types by the bytes that lay where a page was written to."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from clonal.observe.analyse import CAUSES
from clonal.observe.record.events import EVENT, Told
from clonal.observe.record.evidence import judge
from clonal.observe.record.remote import HAVE_GC, MANAGED_DICT, SUBCLASS, Shape

pytestmark = pytest.mark.newest

POOL, HEADER, SIZE = 0x7F00_0000_4000, 48, 64
INT, LIST, NODE, CODE, TEXT, META = (0x1000 * number for number in range(1, 7))
SHAPES = {
    INT: Shape("int", 0, 0, 24), LIST: Shape("list", HAVE_GC, 16, 40),
    NODE: Shape("Node", HAVE_GC | MANAGED_DICT, 32, 16), CODE: Shape("code", 0, 0, 64),
    TEXT: Shape("str", 0, 0, 40), META: Shape("type", SUBCLASS | HAVE_GC, 16, 40),
}  # fmt: skip


def in_pool(offset: int, kind: int, begin: int, flags: Told = Told.POOL_READ | Told.BLOCK_READ) -> np.void:
    """A write so many bytes into the second block of a pool, which holds an object of this type."""
    event = np.zeros(1, EVENT)
    event["address"] = POOL + HEADER + SIZE + offset
    header = struct.pack("<IIQQQIIII", 3, 0, 0, 0, 0, 0, SIZE // 16 - 1, 1024, (1 << 14) - SIZE)
    event["pool"][0] = np.frombuffer(header, "<u4")
    event["block"][0, begin // 8 : begin // 8 + 2] = 1, kind
    event["flags"] = flags
    return event[0]


def elsewhere(words: list[int], address: int = 0x5000_0000) -> np.void:
    event = np.zeros(1, EVENT)
    event["address"], event["at"], event["flags"] = address, words, Told.AT_READ
    return event[0]


CASES = [
    (in_pool(0, INT, 0), "reference count", INT),
    (in_pool(16, INT, 0), "data", INT),
    (in_pool(0, LIST, 16), "gc header", LIST),
    (in_pool(8, LIST, 16), "gc header", LIST),
    (in_pool(16, LIST, 16), "reference count", LIST),
    (in_pool(32, LIST, 16), "data", LIST),
    (in_pool(8, NODE, 32), "data", NODE),
    (in_pool(16, NODE, 32), "gc header", NODE),
    (in_pool(32, NODE, 32), "reference count", NODE),
    (in_pool(40, CODE, 0), "interpreter internals", CODE),
    (in_pool(24, TEXT, 0), "interpreter internals", TEXT),
    (in_pool(32, TEXT, 0), "data", TEXT),
    (in_pool(40, META, 16), "interpreter internals", META),
    (in_pool(0, 0x9999, 0), "data", 0),
    (in_pool(-SIZE - 8, INT, 0), "allocator metadata", 0),
    (elsewhere([1, INT, 0, 0]), "reference count", INT),
    (elsewhere([0, 0, 1, LIST]), "gc header", LIST),
    (elsewhere([0, 1, LIST, 0]), "gc header", LIST),
    (elsewhere([0, 0, 1, INT]), "data", 0),
    (elsewhere([1, INT, 0, 0], 0x5000_0004), "data", 0),
    (elsewhere([7, 7, 7, 7]), "data", 0),
]


@pytest.mark.parametrize(("event", "cause", "kind"), CASES)
def test_a_write_has_its_cause_and_type(event: np.void, cause: str, kind: int) -> None:
    made = judge(np.array([event], EVENT), SHAPES.get, CODE, TEXT)
    assert CAUSES[made.cause[0]] == cause
    assert made.type[0] == kind


def test_many_at_once_are_judged_like_each() -> None:
    made = judge(np.array([event for event, _, _ in CASES], EVENT), SHAPES.get, CODE, TEXT)
    assert [CAUSES[cause] for cause in made.cause] == [cause for _, cause, _ in CASES]
    assert made.type.tolist() == [kind for _, _, kind in CASES]


def test_what_the_kernel_writes_is_data() -> None:
    event = in_pool(0, INT, 0, Told.POOL_READ | Told.BLOCK_READ | Told.BY_KERNEL)
    made = judge(np.array([event], EVENT), SHAPES.get, CODE, TEXT)
    assert (CAUSES[made.cause[0]], made.type[0], made.in_pool[0]) == ("data", 0, True)


def test_no_events_are_judged() -> None:
    assert len(judge(np.zeros(0, EVENT), SHAPES.get, CODE, TEXT).cause) == 0
