"""Libraries with allocators of their own, frozen and used hard, answer as in a process never frozen."""

from __future__ import annotations

import json
from functools import cache

import pytest

from tests.support import ROOT, run_script

RUN = "import sys; from tests.integration.allocator_work import main; main(*sys.argv[1:])"
LIBRARIES = {"numpy": "numpy", "arrow": "pyarrow", "duck": "duckdb"}


def answers(name: str, freeze: str, pool: str) -> list[str]:
    pytest.importorskip(LIBRARIES[name], reason=f"{LIBRARIES[name]} is not installed here")
    env = {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    if pool:
        env["ARROW_DEFAULT_MEMORY_POOL"] = pool
    return run_script(RUN, args=[name, freeze], env=env, timeout=100).stdout.splitlines()


@cache
def twin(name: str, pool: str) -> str:
    first, second = answers(name, "", pool)
    assert first == second
    return first


@pytest.mark.parametrize(
    "name, freeze, pool",
    [
        ("numpy", "mortal", ""),
        ("numpy", "immortal", ""),
        ("arrow", "mortal", "mimalloc"),
        ("arrow", "immortal", "jemalloc"),
        ("arrow", "mortal", "system"),
        ("duck", "mortal", ""),
        ("duck", "immortal", ""),
    ],
)
def test_frozen_and_used_hard_it_answers_as_its_unfrozen_twin(name: str, freeze: str, pool: str) -> None:
    *frozen, guarded = answers(name, freeze, pool)
    assert len(frozen) == 7
    expected = json.loads(twin(name, pool))
    for where, line in enumerate(frozen):
        assert json.loads(line) == expected, f"answer {where} differs"
    if freeze == "mortal" and name != "numpy" and pool != "system":
        assert int(guarded) > 0, "no guard was ever needed: the work frees no frozen memory"


JEMALLOC = """
    import ctypes, os
    import clonal, _duckdb
    from clonal import _native
    try:
        library = ctypes.CDLL(_duckdb.__file__)
        calloc, free, control = (getattr(library, "duckdb_je_" + n) for n in ("calloc", "free", "mallctl"))
    except AttributeError:
        print("skipped: this duckdb does not export its jemalloc")
        raise SystemExit
    calloc.restype = ctypes.c_void_p
    calloc.argtypes = [ctypes.c_size_t] * 2
    free.argtypes = [ctypes.c_void_p]
    control.argtypes = [ctypes.c_char_p, *[ctypes.c_void_p] * 3, ctypes.c_size_t]
    ALL_ARENAS = b"arena.4096.purge"

    SIZES = [(64 << 20, 1), (1 << 20, 64), (100_000, 600), (16384, 4000)]
    made = [(calloc(1, size), size) for size, count in SIZES for _ in range(count)]
    for at, size in made:
        ctypes.memset(at, 0xAA, size)
    clonal.freeze(immortal=False)
    for at, _ in made:
        free(at)
    assert control(ALL_ARENAS, None, None, None, 0) == 0
    again = [(calloc(1, size), size) for _, size in made]
    dirty = sum(ctypes.string_at(at, size) != bytes(size) for at, size in again)
"""


def _run_jemalloc(claim: str, env: dict[str, str]) -> None:
    pytest.importorskip("duckdb", reason="duckdb is not installed here")
    result = run_script(f"{JEMALLOC}    {claim}\n", env=env)
    if "skipped" in result.stdout:
        pytest.skip(result.stdout.strip())


def test_jemalloc_hands_out_zeroes_after_it_purged_frozen_memory() -> None:
    _run_jemalloc("assert dirty == 0, dirty", {})


def test_jemalloc_hands_out_old_bytes_with_the_madvise_guard_alone_off() -> None:
    _run_jemalloc("assert dirty > 100, dirty", {"CLONAL_DISABLE_GUARD": "madvise"})
