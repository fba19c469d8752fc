"""Making the heap ready for an image: immortal, hashed, collected, its allocator's gaps closed.

`prepare()` runs with the GIL held and before other threads are stopped: flushing a stream may wait for
a thread that is writing to it.
"""

from __future__ import annotations

import functools
import gc
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from clonal import _native
from clonal.image import finalise

_WORTH_A_WORD = 1000  # freeze() and its callers alone hold some dozens


@dataclass
class HeapReport:
    """What `prepare` did. `kept` says what stayed mortal and why, `degraded` what was not possible."""

    immortal_objects: int = 0
    finaliser_types: dict[str, int] = field(default_factory=dict)
    hashes_computed: int = 0
    pools_detached: int = 0
    seconds: float = 0.0
    kept: list[str] = field(default_factory=list)
    degraded: list[str] = field(default_factory=list)


def prepare(
    *, immortal: bool = True, exclude: Sequence[object] = (), without: Collection[str] = ()
) -> HeapReport:
    """Prepare this process's heap for an image; again after more warm-up, for what is new.

    `exclude` holds objects or types (with their subclasses): these, and what only they lead to, stay
    mortal. `without` names guards to leave off, for tests: "collect", "flush", "hashes"
    (of strings, and versions of types), "pools", "trim".
    """
    start = time.perf_counter()
    report = HeapReport()
    if "flush" not in without:
        report.degraded += finalise.flush_all()
    if "collect" not in without:
        gc.collect()  # last: garbage would become immortal
    reason = why_not_immortal() if immortal else "not asked for"
    if reason is None:
        _immortalise(report, exclude, hashes="hashes" not in without)
    else:
        _freeze_mortal(report)
        if immortal:
            report.degraded.append(f"no immortal heap: {reason}")
    _close_gaps(report, without)
    report.seconds = time.perf_counter() - start
    return report


@functools.cache
def why_not_immortal() -> str | None:
    """None if this interpreter passes the self-test, else the reason it cannot have an immortal heap."""
    return _native.immortal_selftest()


def _immortalise(report: HeapReport, exclude: Sequence[object], *, hashes: bool) -> None:
    types, objects = _split(exclude)
    found = _native.immortalise(tuple(_with_subclasses([object])), objects, types, hashes, _ndarray())
    report.immortal_objects = found["marked"]
    report.hashes_computed = found["hashes"]
    report.finaliser_types = finalise.finaliser_types(found["finalisable"] + found["finalisable_untracked"])
    report.kept += _kept(found)
    finalise.remember_theirs(found["kept_finalisable"])
    report.degraded += finalise.remember_immortal(
        found["finalisable"], found["finalisable_untracked"], unfreeze=found["kept_hidden"]
    )


def _kept(found: dict[str, Any]) -> list[str]:
    kept = []
    if (n := found["kept_running"]) >= _WORTH_A_WORD:
        kept.append(
            f"{n:,} objects are held only by variables of running functions and stay mortal: "
            "store them in a module global before the freeze"
        )
    if n := found["kept_excluded"]:
        kept.append(f"{n:,} objects stay mortal because they are excluded, or only excluded ones hold them")
    return kept


def _freeze_mortal(report: HeapReport) -> None:
    objects = _native.finalisable_objects()
    report.finaliser_types = finalise.finaliser_types(objects)
    finalise.remember_theirs(objects)
    del objects
    gc.freeze()
    report.degraded += finalise.remember_mortal()


def _close_gaps(report: HeapReport, without: Collection[str]) -> None:
    if "pools" not in without:
        detached = _native.detach_pools()
        if isinstance(detached, str):
            report.degraded.append(f"allocator pools not detached: {detached}")
        else:
            report.pools_detached = sum(detached)
    if "trim" not in without:
        _native.trim_malloc()


def _split(exclude: Sequence[object]) -> tuple[tuple[type, ...], tuple[object, ...]]:
    """Types with all their subclasses, and the other objects."""
    types = _with_subclasses(each for each in exclude if isinstance(each, type))
    return tuple(types), tuple(each for each in exclude if not isinstance(each, type))


def _with_subclasses(types: Any) -> list[type]:
    seen: dict[type, None] = {}
    todo = list(types)
    while todo:
        kind = todo.pop()
        if kind not in seen:
            seen[kind] = None
            todo += type.__subclasses__(kind)
    return list(seen)


def _ndarray() -> type | None:
    """numpy's array type if it is loaded and its memory looks as the C core expects."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not hasattr(numpy, "ndarray"):
        return None
    sentinel = object()
    probe = numpy.full((2, 3), sentinel, dtype=object)
    kind: type = numpy.ndarray
    return kind if _native.ndarray_layout_known(kind, probe, sentinel) else None
