"""A copy's kind of memory is the one that `clonal map` gives its mapping."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clonal.kernel import procfs
from clonal.observe import programs
from clonal.observe.analyse import Maps
from clonal.observe.kinds import MemoryKind, classify

START = 0x7F00_0000_1000


def test_of_this_process() -> None:
    text = Path("/proc/self/maps").read_text()
    maps = Maps(text)
    regions = classify(procfs.parse_maps(text.encode()), programs.extents(os.getpid(), {}))
    assert {region.kind for region in regions} >= {MemoryKind.CODE, MemoryKind.DATA, MemoryKind.STACK}
    for region in regions:
        for address in (region.start, region.end - 1):
            assert maps.at(address)[:4] == region[:4]


@pytest.mark.parametrize(("size", "kind"), [(124 << 10, "other"), (128 << 10, "large buffers")])
def test_of_anonymous_memory_by_its_size(size: int, kind: str) -> None:
    maps = Maps(f"{START:x}-{START + size:x} rw-p 00000000 00:00 0 \n")
    assert str(maps.at(START + size - 1).kind) == kind
    assert maps.at(START + size).kind is maps.at(START - 1).kind is MemoryKind.OTHER
