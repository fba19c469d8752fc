"""Reading an immortal heap writes nothing; what writes after all, and what users must know."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support import run_script

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="CPython 3.11 has no immortal objects (PEP 683); image only"
)

PRELUDE = """
import array, ctypes, gc, os, sys
from clonal import _native
from clonal.image import heap

PAGE = os.sysconf("SC_PAGE_SIZE")

def pages_of(objects):
    return sorted({id(each) // PAGE for each in objects})

def copied(pages):
    # Bit 56 of a pagemap entry: this process alone maps the page. After a fork: it made a copy.
    count = 0
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        for page in pages:
            entry = int.from_bytes(os.pread(pagemap.fileno(), 8, page * 8), sys.byteorder)
            count += entry >> 63 and entry >> 56 & 1
    return count

def copied_by_clone(work, pages):
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            work()
            os.write(write, b"%d" % copied(pages))
        finally:
            os._exit(0)
    os.close(write)
    count = int(os.read(read, 20))
    os.close(read)
    os.wait()
    return count
"""


def run(body: str) -> str:
    return run_script(PRELUDE + body).stdout


HEAP = """
class Thing:
    def __init__(self, i): self.number, self.text = i + 10**6, "text %d" % i
things = [Thing(i) for i in range(30000)]
table = {"key %d" % i: [i + 10**6, (i + 0.5,)] for i in range(30000)}
def read_everything():
    total = 0
    for thing in things:
        total += thing.number + len(thing.text)
    for key, value in table.items():
        held = key, value, value[0], value[1][0]
        total += len(held)
    return total
everything = [thing.text for thing in things] + [thing.number for thing in things] + things
everything += list(table) + list(table.values()) + [value[1] for value in table.values()]
pages = pages_of(everything)
read_everything()
"""


def test_a_clone_that_reads_every_object_copies_nearly_nothing() -> None:
    run(
        HEAP
        + """
heap.prepare(immortal=False)
mortal = copied_by_clone(read_everything, pages)
heap.prepare()
immortal = copied_by_clone(read_everything, pages)
assert mortal > len(pages) * 0.8, (mortal, len(pages))
assert immortal < len(pages) * 0.01, (immortal, len(pages))
"""
    )


def test_without_hashing_at_the_freeze_a_clone_copies_the_strings_it_looks_up() -> None:
    run(
        """
texts = ["text %d" % i for i in range(30000)]
blobs = [b"blob %d" % i for i in range(30000)]
pages = pages_of(texts + blobs)
def look_up():
    for each in texts: hash(each)
    for each in blobs: hash(each)
heap.prepare(without=["hashes"])
off = copied_by_clone(look_up, pages)
heap.prepare()
del texts[:], blobs[:]
texts += ["other %d" % i for i in range(30000)]
blobs += [b"other %d" % i for i in range(30000)]
pages = pages_of(texts + blobs)
heap.prepare()
on = copied_by_clone(look_up, pages)
assert off > 500 and on < off / 20, (off, on)
"""
    )


def test_without_detached_pools_a_clones_new_objects_copy_old_pages() -> None:
    body = """
keep = [bytes(n % 400 + 1) for n in range(200000)]
del keep[::3]
pages = pages_of(keep)
def allocate():
    return [bytes(n % 400 + 1) for n in range(60000)]
heap.prepare(without={without})
print(copied_by_clone(allocate, pages))
"""
    on, off = (int(run(body.format(without=without))) for without in ([], ["pools"]))
    assert off > 1000 and on < off / 20, (on, off)


def test_the_collector_of_a_clone_leaves_frozen_objects_alone() -> None:
    run(
        HEAP
        + """
heap.prepare()
assert copied_by_clone(gc.collect, pages) < len(pages) * 0.01
"""
    )


def test_many_objects_kept_mortal_are_hidden_from_the_collector_of_clones_until_exit() -> None:
    out = run(
        """
class Loud:
    def __del__(self): print("del", flush=True)
def main():
    lists, loud = [[i] for i in range(100_000)], Loud()
    loud.me = loud                               # only the collector can end it
    pages = pages_of(lists)
    heap.prepare()
    assert not immortal(lists[5]) and not immortal(loud)
    assert copied_by_clone(gc.collect, pages) < len(pages) * 0.01
immortal = _native.is_immortal
main()
gc.collect()
print("exit", flush=True)
"""
    )
    assert out == "exit\ndel\n"


def test_without_versions_given_at_the_freeze_a_clone_copies_the_types_it_uses() -> None:
    body = """
kinds = [type("Kind%d" % i, (), {{}}) for i in range(500)]
pages = pages_of(kinds)
heap.prepare(without={without})
print(copied_by_clone(lambda: [getattr(kind, "missing", None) for kind in kinds], pages))
"""
    on, off = (int(run(body.format(without=without))) for without in ([], ["hashes"]))
    assert off > 50 and on < off / 10, (on, off)


ABI3 = """
#define Py_LIMITED_API 0x03060000
#include <Python.h>
static PyObject *take(PyObject *self, PyObject *object)
{
    Py_INCREF(object);
    Py_DECREF(object);
    Py_INCREF(object);
    return object;
}
static PyObject *drop(PyObject *self, PyObject *object)
{
    Py_DECREF(object); /* one too many for a mortal object */
    Py_RETURN_NONE;
}
static PyMethodDef methods[] = {{"take", take, METH_O, 0}, {"drop", drop, METH_O, 0}, {0}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "old_abi", 0, -1, methods};
PyMODINIT_FUNC PyInit_old_abi(void) { return PyModule_Create(&definition); }
"""


def compile_extension(source: str, folder: Path) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build an extension of the old stable ABI with")
    (folder / "old_abi.c").write_text(source)
    include = sysconfig.get_path("include")
    command = [compiler, "-shared", "-fPIC", "-O2", f"-I{include}", "-o", "old_abi.abi3.so", "old_abi.c"]
    subprocess.run(command, cwd=folder, check=True)
    return folder


def test_an_extension_of_the_old_stable_abi_writes_the_count_but_it_heals(tmp_path: Path) -> None:
    folder = compile_extension(ABI3, tmp_path)
    run(
        f"""
sys.path.insert(0, {str(folder)!r})
import old_abi
class Thing: pass
thing = Thing()
heap.prepare()
for n in (1, 1000, 70000):
    for _ in range(n): old_abi.take(thing)
    for _ in range(n): old_abi.drop(thing)
    for _ in range(100):
        held = [thing] * 1000
        del held
    assert _native.is_immortal(thing)
assert thing.__class__ is Thing
"""
    )


def test_elements_of_object_arrays_become_immortal() -> None:
    pytest.importorskip("numpy", reason="numpy is not installed")
    run(
        """
import numpy as np
texts = np.array(["text %d" % i for i in range(1000)], dtype=object).reshape(10, 100)
view = texts[:, ::2]
nested = np.empty(2, dtype=object)
nested[:] = [["list %d" % 1], {"set %d" % 2}]
heap.prepare()
assert all(map(_native.is_immortal, texts.ravel().tolist()))
assert _native.is_immortal(nested[0]) and _native.is_immortal(nested[0][0])
assert _native.is_immortal(view.base)
"""
    )


def test_documented_arrays_refuse_to_be_resized_and_weak_dictionaries_keep_frozen_entries() -> None:
    pytest.importorskip("numpy", reason="numpy is not installed")
    run(
        """
import numpy as np, weakref
class Thing: pass
array, thing = np.arange(1000), Thing()
weak = weakref.WeakValueDictionary(key=thing)
heap.prepare()
try:
    array.resize(2000)
except ValueError as error:
    assert "references" in str(error) or "referenced" in str(error), error
else:
    raise AssertionError("resized")
del thing
gc.collect()
assert "key" in weak
"""
    )


def test_the_self_test_notices_an_interpreter_that_counts_immortal_objects() -> None:
    run(
        """
assert _native.immortal_selftest() is None
none = ctypes.c_uint32.from_address(id(None))
proven, none.value = none.value, 0x80001000    # looks immortal, but INCREF counts it
try:
    reason = _native.immortal_selftest()
finally:
    none.value = proven
assert "writes the count of immortal objects" in reason, reason
"""
    )


def test_frozen_locks_threads_and_queues_still_work() -> None:
    out = run(
        """
import queue, threading, concurrent.futures
lock, condition, jobs, local = threading.Lock(), threading.Condition(), queue.Queue(), threading.local()
local.name = "main"
pool = concurrent.futures.ThreadPoolExecutor(2)
pool.submit(int).result()
heap.prepare()
with lock, condition:
    condition.notify_all()
thread = threading.Thread(target=lambda: [jobs.put(n) for n in range(100)])
thread.start()
thread.join()
assert [jobs.get() for _ in range(100)] == list(range(100)) and local.name == "main"
print(sum(pool.map(lambda n: n * n, range(10))))
"""
    )
    assert out == "285\n"


def test_a_thread_that_builds_a_tuple_while_another_freezes_goes_on() -> None:
    run(
        """
import threading
inside, go_on = threading.Event(), threading.Event()
def steps():
    for i in range(100):
        if i == 50:
            inside.set()
            go_on.wait()
        yield i
results = []
def work():
    results.append(tuple(steps()))
    results.append(sum(results[0]))
thread = threading.Thread(target=work)
thread.start()
inside.wait()
heap.prepare()
go_on.set()
thread.join()
assert results[1] == 4950, results
"""
    )
