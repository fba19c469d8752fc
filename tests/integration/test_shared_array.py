"""Shared arrays: what one process writes the others see, however they came by the array."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from typing import Any

import numpy
import pytest

import clonal
from clonal.clone import shared
from tests.support import run_script


def child_reads(pickled: bytes, fds: tuple[int, ...] = ()) -> subprocess.CompletedProcess[bytes]:
    """An unrelated process unpickles the array, doubles it and prints its type."""
    script = f"""
import pickle, sys
from clonal.clone import shared
with shared.receiving({list(fds)}):
    array = pickle.loads(sys.stdin.buffer.read())
array *= 2
print(type(array).__name__, array.shape, array.dtype)
"""
    return subprocess.run(
        [sys.executable, "-c", script], input=pickled, capture_output=True, pass_fds=fds, check=False
    )


def test_a_fork_and_its_parent_see_each_others_writes(user: str | None) -> None:
    run_script(
        """
        import os, clonal
        array = clonal.shared_array((1000, 1000), "f4")
        assert array.shape == (1000, 1000) and array.dtype == "f4" and not array.any()
        array[0] = 7
        there, back = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            os.read(there[0], 1)
            ok = array[0, 0] == 7 and array[2, 2] == 9
            array[1] = 8
            os._exit(0 if ok else 1)
        array[2] = 9
        os.write(there[1], b"x")
        assert os.waitpid(pid, 0)[1] == 0
        assert (array[1] == 8).all() and (array[3:] == 0).all()
        """,
        user=user,
    )


def test_a_pickled_array_is_the_same_memory_in_another_process() -> None:
    array = clonal.shared_array(10, "i8")
    array[:] = range(10)
    run = child_reads(pickle.dumps(array))
    assert run.stdout.split() == [b"SharedArray", b"(10,)", b"int64"], run.stderr.decode()
    assert array.tolist() == [2 * each for each in range(10)]


def test_descriptors_that_travel_along_need_no_sender_afterwards() -> None:
    array = clonal.shared_array(10, "i8")
    array[:] = 1
    ours, theirs = socket.socketpair()
    with ours, theirs, shared.sending(5) as fds:
        pickled = pickle.dumps([array, array[2:]])
        assert len(fds) == 1  # the view is of the same memory
        socket.send_fds(ours, [b"x"], fds)
        block = shared._block_of(array)
        assert block is not None
        watch = os.dup(block.fd)
        del array, block  # gone here: only the message holds it
        _, received, _, _ = socket.recv_fds(theirs, 1, 2)
    script_fds = tuple(received)
    try:
        run = subprocess.run(
            [sys.executable, "-c", f"""
import pickle, sys
from clonal.clone import shared
with shared.receiving({list(script_fds)}):
    array, view = pickle.loads(sys.stdin.buffer.read())
view[0] = 5
assert array[2] == 5
"""],
            input=pickled, pass_fds=script_fds, capture_output=True, check=False,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr.decode()
        assert os.pread(watch, 8, 16) == (5).to_bytes(8, sys.byteorder)
    finally:
        for fd in (*received, watch):
            os.close(fd)


@pytest.mark.parametrize("part", [":", "::-1", "3:7", "::3", "5"])
def test_views_travel_as_views(part: str) -> None:
    array = clonal.shared_array((10, 4), "i4")
    array[:] = numpy.arange(40).reshape(10, 4)
    view = eval(f"array[{part}].T")
    again = pickle.loads(pickle.dumps(view))
    assert again.tolist() == view.tolist() and again.strides == view.strides
    again[...] = -1
    assert (view == -1).all()


def test_a_read_only_view_stays_so() -> None:
    array = clonal.shared_array(4)
    view = array[:2]
    view.flags.writeable = False
    again = pickle.loads(pickle.dumps(view))
    with pytest.raises(ValueError, match="read-only"):
        again[0] = 1


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_results_and_copies_travel_by_value(protocol: int) -> None:
    array = clonal.shared_array(5)
    for ordinary in (array + 1, array.copy(), numpy.concatenate([array, array])):
        again = pickle.loads(pickle.dumps(ordinary, protocol))
        assert type(again) is numpy.ndarray
        again[0] = 42
        assert ordinary[0] != 42


def test_an_array_that_is_gone_says_so() -> None:
    pickled = pickle.dumps(clonal.shared_array(5))
    run = child_reads(pickled)
    assert b"the memory of a shared array is gone" in run.stderr
    assert b"keep the array until" in run.stderr


def test_a_dropped_array_frees_its_memory() -> None:
    fds = os.listdir("/proc/self/fd")
    array = clonal.shared_array(1 << 20, "u1")
    view = array[5:]
    del array
    with open("/proc/self/maps") as maps:
        assert "clonal-shared" in maps.read()
    del view
    assert os.listdir("/proc/self/fd") == fds
    with open("/proc/self/maps") as maps:
        assert "clonal-shared" not in maps.read()


def test_a_process_that_has_the_memory_maps_it_once() -> None:
    array = clonal.shared_array(5)
    again = pickle.loads(pickle.dumps(array))
    assert shared._block_of(again) is shared._block_of(array)


@pytest.mark.parametrize(
    ("shape", "dtype", "error", "text"),
    [
        (0, "f8", ValueError, "no bytes to share"),
        ((3, 0), "f8", ValueError, "no bytes to share"),
        ((2, -1), "f8", ValueError, "negative size"),
        (3, object, TypeError, "holds Python objects"),
        (3, [("a", "i4"), ("b", "O")], TypeError, "holds Python objects"),
        (3, "no such type", TypeError, "not understood"),
        (3, "V0", ValueError, "no bytes to share"),
    ],
)
def test_what_cannot_be_shared_is_refused(shape: Any, dtype: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        clonal.shared_array(shape, dtype)


def test_structured_arrays_are_shared() -> None:
    array = clonal.shared_array(3, [("a", "i4"), ("b", "f8")])
    pickle.loads(pickle.dumps(array))["b"][1] = 2.5
    assert array[1]["b"] == 2.5


def test_without_numpy_the_error_names_the_extra() -> None:
    run_script(
        """
        import sys
        sys.modules["numpy"] = None
        import clonal
        try:
            clonal.shared_array(3)
        except ImportError as error:
            assert "clonal[observe]" in str(error), error
        else:
            raise AssertionError
        """
    )


def test_without_memory_files_it_is_inherited_but_cannot_be_sent() -> None:
    run_script(
        """
        import os, pickle, clonal
        array = clonal.shared_array(3)
        pid = os.fork()
        if pid == 0:
            array[1] = 4
            os._exit(0)
        os.waitpid(pid, 0)
        assert array[1] == 4
        try:
            pickle.dumps(array)
        except pickle.PicklingError as error:
            assert "inherited by clones" in str(error)
        else:
            raise AssertionError
        """,
        env={"CLONAL_DISABLE": "memfd"},
    )


def test_nobody_can_shrink_the_memory_under_others() -> None:
    block = shared._block_of(clonal.shared_array(5))
    assert block is not None
    with pytest.raises(PermissionError):
        os.ftruncate(block.fd, 0)


def test_a_frozen_process_and_its_forks_still_share(user: str | None) -> None:
    run_script(
        """
        import os, clonal, numpy
        array = clonal.shared_array(1 << 20, "u1")
        array[5] = 1
        report = clonal.freeze()
        pid = os.fork()
        if pid == 0:
            array[7] = array[5] + 1
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert array[5] == 1 and array[7] == 2
        """,
        user=user,
    )


TEMPLATE = """
import gc, os, sys
import numpy
import clonal

def fill(array, value):
    array[:] = value
    return os.getpid()

def make(value):
    array = clonal.shared_array(4)
    array[:] = value
    return array

def fill_global(index, value):
    Warm.array[index] = value
    return Warm.array

def fill_all(arrays):
    for number, array in enumerate(arrays):
        array[:] = number
    return arrays[::-1]

class Warm:
    array = None

def setup():
    Warm.array = clonal.shared_array(8, "i4")

if __name__ == "__main__":
    with clonal.Template(setup=setup) as t:
"""


@pytest.mark.parametrize("standby", [0, 1])
def test_clones_write_to_what_the_client_passes(standby: int, user: str | None) -> None:
    run_script(
        TEMPLATE.replace("setup=setup", f"setup=setup, standby={standby}")
        + """
        array = clonal.shared_array((100, 100), "f8")
        t.clone(fill, array, 3.5).result(30)
        assert (array == 3.5).all()
        t.clone(fill, array[::2, 1], -1).result(30)
        assert array[0, 1] == -1 and array[1, 1] == 3.5 and array[0, 0] == 3.5
        t.options(capture=True, timeout=30).clone(fill, array, 2).result(30)
        assert (array == 2).all()
        assert list(t.map(lambda row: row.fill(row[0] + 1), [array[0], array[1]])) == [None] * 2
        assert (array[:2] == 3).all() and (array[2:] == 2).all()
""",
        user=user,
    )


def test_clones_hand_arrays_back() -> None:
    run_script(
        TEMPLATE
        + """
        made = t.clone(make, 7).result(30)
        assert made.tolist() == [7] * 4
        t.clone(fill, made, 8).result(30)
        assert made.tolist() == [8] * 4
        first = t.clone(fill_global, 0, 5).result(30)
        second = t.clone(fill_global, 1, 6).result(30)
        assert first.tolist()[:2] == second.tolist()[:2] == [5, 6]
        many = [clonal.shared_array(3) for _ in range(12)]
        fds = len(os.listdir("/proc/self/fd"))
        back = t.clone(fill_all, many).result(30)
        assert [array[0] for array in many] == list(range(12)) == [array[0] for array in back[::-1]]
        del back
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) <= fds + 2
"""
    )


def test_an_array_dropped_while_the_clone_starts_is_there_for_it() -> None:
    run_script(
        TEMPLATE
        + """
        clones = [t.clone(fill, clonal.shared_array(10), number) for number in range(20)]
        assert len({clone.result(30) for clone in clones}) == 20
"""
    )
