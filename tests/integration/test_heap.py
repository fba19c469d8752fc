"""The heap is immortal where it may be, mortal where it must stay so, and ready to be shared."""

from __future__ import annotations

import sys

import pytest

from tests.support import run_script

HAS_IMMORTALS = sys.version_info >= (3, 12)
immortals = pytest.mark.skipif(
    not HAS_IMMORTALS, reason="CPython 3.11 has no immortal objects (PEP 683); image only"
)

PRELUDE = """
import gc, os, sys
from clonal import _native
from clonal.image import heap
immortal = _native.is_immortal
"""


def run(body: str) -> str:
    return run_script(PRELUDE + body).stdout


@pytest.mark.skipif(HAS_IMMORTALS, reason="this interpreter has immortal objects")
def test_without_immortal_objects_the_report_says_why() -> None:
    run(
        """
report = heap.prepare()
assert report.immortal_objects == 0
assert any("3.11 has no immortal objects (PEP 683)" in line for line in report.degraded), report
"""
    )


@immortals
def test_every_kind_of_object_that_modules_hold_becomes_immortal() -> None:
    run(
        """
import types
class Slotted:
    __slots__ = ("a",)
class Plain:
    def method(self): return 'constant in a method'
class Text(str): pass
plain, slotted = Plain(), Slotted()
plain.text, slotted.a = "text %d" % 1, "text %d" % 2
plain.inner = {"key %d" % 3: [bytes(b"bytes %d" % 4), 10**30, 2.5 * len(sys.argv)]}
proxy = types.MappingProxyType({"a": "text %d" % 5})
text = Text("text")
text.attribute = "text %d" % 6
def outer():
    cell = "text %d" % 7
    return lambda: cell
closure = outer()
nested = compile("def f(): return 'deep constant'", "x", "exec")
heap.prepare()
assert immortal(plain) and immortal(plain.text) and immortal(slotted.a)
assert all(map(immortal, next(iter(plain.inner.values())))) and immortal(next(iter(plain.inner)))
assert immortal(proxy["a"]) and immortal(text.attribute)
assert immortal(closure.__closure__[0].cell_contents)
assert immortal(Plain.method.__code__.co_consts[1]) and immortal(Plain) and immortal(Plain.__dict__["method"])
assert immortal(nested.co_consts[0].co_consts[1])
assert immortal(str.__dict__["join"]) and immortal(sys.modules["os"])
"""
    )


@immortals
def test_what_only_running_functions_hold_stays_mortal_and_is_reported() -> None:
    run(
        """
import weakref
class Thing: pass
def main():
    thing, numbers = Thing(), [[i] for i in range(5000)]
    gone = weakref.ref(thing)
    report = heap.prepare()
    assert not immortal(thing) and not immortal(numbers) and not immortal(numbers[7])
    assert any("held only by variables of running functions" in line for line in report.kept), report
    del thing
    assert gone() is None
    return gone
main()
"""
    )


@immortals
@pytest.mark.parametrize(
    "freeze_inside",
    [
        "tuple(step(i) for i in range(100))",
        "tuple([step(i) for i in range(100)])",
        "[step(i) for i in range(100)]",
        "frozenset(step(i) for i in range(100))",
        "{step(i) for i in range(100)}",
        "dict((step(i), i) for i in range(100))",
        "sorted(range(100), key=step)",
        "list(map(step, range(100)))",
        "(*map(step, range(50)), *map(step, range(50, 100)))",
        "tuple(map(step, Unsized()))",
    ],
)
def test_a_container_may_be_half_built_when_the_heap_is_frozen(freeze_inside: str) -> None:
    run(
        f"""
class Unsized:
    def __iter__(self): return iter(range(100))
def step(i):
    if i in (0, 9, 50, 99):
        heap.prepare()
    return i
import weakref
def build():
    return {freeze_inside}
built = build()
assert sorted(built) == list(range(100)), built
assert not immortal(built)
"""
    )


@immortals
def test_generators_and_coroutines_running_at_the_freeze_go_on_and_end() -> None:
    out = run(
        """
import asyncio
async def inner():
    local = [object()]
    heap.prepare()
    await asyncio.sleep(0)
    assert not immortal(local)
    return "inner"
async def main():
    try:
        return await inner()
    finally:
        print("finally")
print(asyncio.run(main()))
def generator():
    mine = [object()]
    heap.prepare()
    yield immortal(mine)
    yield "end"
print(list(generator()))
"""
    )
    assert out == "finally\ninner\n[False, 'end']\n"


@immortals
def test_excluded_objects_and_types_stay_mortal_with_what_only_they_hold() -> None:
    run(
        """
class Cache: pass
class SubCache(Cache): pass
cache, sub, table = Cache(), SubCache(), {"k %d" % 1: ["v %d" % 2]}
shared = ["held by a module too"]
cache.own, cache.shared, sub.own = ["own"], shared, ["own"]
report = heap.prepare(exclude=[Cache, table])
assert not immortal(cache) and not immortal(sub) and not immortal(table)
assert not immortal(cache.own) and not immortal(sub.own) and not immortal(table["k 1"])
assert immortal(shared) and immortal(Cache)
assert any("excluded" in line for line in report.kept), report
import weakref
ref = weakref.ref(cache)
del cache
assert ref() is None
sub.me = sub                      # still the collector's business
ref = weakref.ref(sub)
del sub
gc.collect()
assert ref() is None
"""
    )


@immortals
def test_a_second_freeze_reaches_what_was_added_to_immortal_objects() -> None:
    run(
        """
class Thing: pass
table, thing, untracked = {"old": [1]}, Thing(), {}
first = heap.prepare().immortal_objects
table["new %d" % 1] = ["text %d" % 2]
thing.late = {"text %d" % 3}
untracked["text %d" % 4] = "text %d" % 5
report = heap.prepare()
assert 0 < report.immortal_objects < first / 10, (first, report)
assert immortal(table["new 1"]) and immortal(table["new 1"][0]) and immortal(next(iter(thing.late)))
assert immortal(untracked["text 4"]) and immortal(next(iter(untracked)))
assert heap.prepare().immortal_objects < 200
"""
    )


@immortals
def test_hashes_of_strings_are_computed_unless_switched_off() -> None:
    run(
        """
import ctypes
texts = ["unhashed %d" % i for i in range(1000)]
blobs = [b"unhashed %d" % i for i in range(1000)]
def stored_hash(object, offset): return ctypes.c_ssize_t.from_address(id(object) + offset).value
assert stored_hash(texts[0], 24) == -1 and stored_hash(blobs[0], 24) == -1
assert heap.prepare(without=["hashes"]).hashes_computed == 0
assert stored_hash(texts[0], 24) == -1
more = ["new %d" % i for i in range(1000)], [b"new %d" % i for i in range(1000)]
assert heap.prepare().hashes_computed >= 2000
for sequence in more:
    assert all(stored_hash(each, 24) == hash(each) for each in sequence)
"""
    )
