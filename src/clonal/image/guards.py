"""Guards keep allocators right on image pages; this module puts them up.

An image page is a private mapping of a file, and Linux treats `madvise` and `mremap` differently
there than on the anonymous memory that the page replaced. The C core redirects both for every
loaded library; `freeze()` does the rest by how it lays the image out. Each guard can be left out by
name, so that a test can show what it prevents.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from clonal import _native

#: Redirected calls, put up by `install`.
CALLS = {"madvise": 1, "mremap": 2}

#: All guards by name. `realloc`: a mapping boundary inside each large malloc chunk, so that libc's own
#: mremap refuses and realloc copies. `holes`: zeroes and holes stay anonymous. `atfork`: fork handlers
#: run before the freeze. `hygiene`: allocator pools and hashes are put in order before it.
GUARDS = frozenset(CALLS) | {"realloc", "holes", "atfork", "hygiene"}

_DISABLE = "CLONAL_DISABLE_GUARD"
_DEFAULT_MAX_MAP_COUNT = 65530


def disabled(names: Iterable[str] = ()) -> frozenset[str]:
    """The guards left out: `names` and those in CLONAL_DISABLE_GUARD, separated by commas.

    >>> sorted(disabled(["mremap"]))
    ['mremap']
    """
    wanted = {name.strip() for name in os.environ.get(_DISABLE, "").split(",")} - {""} | set(names)
    if unknown := wanted - GUARDS:
        raise ValueError(
            f"no such guard: {', '.join(sorted(unknown))}; there are {', '.join(sorted(GUARDS))}"
        )
    return frozenset(wanted)


def install(disable: Iterable[str] = ()) -> list[str]:
    """Redirect `madvise` and `mremap` of all loaded libraries; returns what could not be guarded.

    Call it just before the image is switched, then `refresh` as soon as the image is in place: in
    between each call looks at the mappings first. Raises OSError if there is no memory for the table
    of extents; then there must be no image.
    """
    left_out = disabled(disable)
    calls = sum(flag for name, flag in CALLS.items() if name not in left_out)
    found = _native.interpose(calls, _max_map_count())
    notes = [f"guard {name} is switched off" for name in sorted(left_out & CALLS.keys())]
    if found["refused"]:
        notes.append(f"{found['refused']} calls of madvise or mremap could not be redirected")
    return notes


def refresh() -> list[str]:
    """Note where the image is now. Where that fails all stays right, only slower, and a note says so."""
    try:
        _native.image_extents_refresh()
    except OSError as error:
        return [f"where the image is could not be noted ({error.strerror}): each madvise and mremap looks"]
    return []


def keep() -> list[tuple[int, int]]:
    """Address ranges that must not become image."""
    return _native.interpose_keep()


def _max_map_count() -> int:
    try:
        return int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):
        return _DEFAULT_MAX_MAP_COUNT
