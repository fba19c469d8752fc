"""The mutation check: with any one rule of the model broken, scenarios no longer agree with the kernel."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import numpy as np
import pytest

from clonal.model import Config, collapse, fork, huge
from clonal.model import faults as fault_rules
from clonal.model.frames import Folio, Frames
from clonal.model.space import AddressSpace
from clonal.model.tables import Tables
from clonal.model.vma import Vma
from clonal.scenario import KernelRunner, ModelRunner, Scenario, compare
from tests.conformance.combinations import HUGE, combinations, rare
from tests.conformance.scenarios import Author

pytestmark = [pytest.mark.newest, pytest.mark.allow_leaks]  # the runner lives as long as the module

COMBINATIONS = dict(combinations())


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelRunner]:
    with KernelRunner() as runner:
        yield runner


def _break(owner: Any, name: str, wrong: Callable[..., Any]) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setattr(owner, name, wrong)


def _zero_counts(space: AddressSpace, vma: Vma, index: Any, around: int) -> Any:
    return (
        fault_rules._read_file(space, vma, index, around)
        if vma.file
        else fault_rules._write_absent(space, vma, index)
    )


_copy_entries = fork._copy_entries
_unmap = Frames.unmap
_write_present = fault_rules._write_present


def _without_write_protection(space: AddressSpace, child: AddressSpace, vma: Vma) -> Any:
    writable = vma.writable.copy()
    result = _copy_entries(space, child, vma)
    vma.writable[:] = writable
    return result


def _no_reuse(space: AddressSpace, vma: Vma, index: Any, large: bool) -> Any:
    kept = space.frames.mapped.copy()
    space.frames.mapped[vma.frame[index]] += vma.shared is False
    space.frames.exclusive[vma.frame[index]] = False
    try:
        return _write_present(space, vma, index, large)
    finally:
        old = kept.size
        space.frames.mapped[:old] = np.minimum(space.frames.mapped[:old], np.maximum(kept, 1))


def _no_window(vma: Vma, index: Any, around: int) -> tuple[Any, Any]:
    return np.arange(index.size), index


def _locks_inherited(vma: Vma, **changes: Any) -> Vma:
    return _replace(vma, **(changes | {"locked": vma.locked}))


def _wiped_no_more(vma: Vma, **changes: Any) -> Vma:
    return _replace(vma, **(changes | {"wipe_on_fork": False}))


def _all_alone(self: Frames, frames: Any, space: AddressSpace) -> None:
    _unmap(self, frames, space)
    self.exclusive[frames] = True


_replace = fork.replace


def _huge_copied_whole(space: AddressSpace, vma: Vma, block: int, config: Config) -> Any:
    part = slice(block * 512 - vma.start, block * 512 - vma.start + 512)
    if vma.frame[part.start] and not space.frames.exclusive[vma.frame[part.start]]:
        space.frames.unmap_huge(int(vma.frame[part.start]), space)
        return huge._fill(space, vma, block)
    return _write_huge(space, vma, block, config)


def _huge_not_whole(space: AddressSpace, vma: Vma, block: int, write: bool, config: Config) -> Any:
    made = _fault_huge(space, vma, block, write, config)
    if block in space.tables.huge:
        vma.anon_vma = vma.anon_vma and write  # a read makes none
    return made


def _no_reserve(self: Tables, other: Tables, start: int, end: int) -> int:
    count = _copy_range(self, other, start, end)
    self.at[0].difference_update(other.huge)
    return count


def _collapse_frees(space: AddressSpace, vma: Vma, block: int) -> int:
    copied = _collapse_block(space, vma, block)
    space.tables.at[0].discard(block)
    return copied


_collapse_block = collapse._block
_write_huge, _fault_huge, _copy_range = huge._write, huge._fault, Tables.copy_range

MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "fork leaves the parent's entries writable": _break(fork, "_copy_entries", _without_write_protection),
    "the last sharer copies": _break(fault_rules, "_write_present", _no_reuse),
    "reading takes a frame": _break(fault_rules, "_read", _zero_counts),
    "empty tables are not freed": _break(Tables, "free", lambda *_: None),
    "a child has no page tables": _break(Tables, "copy_range", lambda *_: 0),
    "mappings never merge or all do": _break(Vma, "joins", lambda self, after: self.end == after.start),
    "a read fault maps one page": _break(fault_rules, "_windows", _no_window),
    "a child inherits locks": _break(fork, "replace", _locks_inherited),
    "a child forgets WIPEONFORK": _break(fork, "replace", _wiped_no_more),
    "a page shared no more is exclusive": _break(Frames, "unmap", _all_alone),
    "a huge page is copied whole": _break(huge, "_write", _huge_copied_whole),
    "a read of the huge zero page makes no anon_vma": _break(huge, "_fault", _huge_not_whole),
    "fork keeps no table in reserve": _break(Tables, "copy_range", _no_reserve),
    "a huge page is given up whole": _break(huge, "split_at", lambda *_: None),
    "a page of a huge page is reused if mapped once": _break(Folio, "shared", property(lambda self: False)),
    "a page of a huge page is never reused": _break(Folio, "shared", property(lambda self: True)),
    "DONTNEED frees no tables": _break(AddressSpace, "_reclaim", lambda *_: None),
    "what is collapsed has no table in reserve": _break(collapse, "_block", _collapse_frees),
    "frames are never freed from an exec": _break(AddressSpace, "destroy", lambda self: None),
}


def _agrees_everywhere(kernel: KernelRunner) -> bool:
    quick = [*COMBINATIONS.values(), *rare([4]), *HUGE.values()]
    scenarios = itertools.chain(quick, (Author(Random(n)).write() for n in range(60)))
    return all(not _differs(each, kernel, None) for each in scenarios)


def _differs(scenario: Scenario, kernel: KernelRunner, config: Config | None) -> bool:
    with ModelRunner(config or Config(overcommit=kernel.overcommit)) as model:
        try:
            return bool(compare(scenario, model, kernel))
        except Exception:
            return True  # a broken model may also break down


@pytest.mark.parametrize("rule", MUTANTS)
def test_a_broken_rule_is_noticed(rule: str, kernel: KernelRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[rule](monkeypatch)
    assert not _agrees_everywhere(kernel)


def test_another_fault_around_is_noticed(kernel: KernelRunner) -> None:
    scenario = next(
        each for name, each in COMBINATIONS.items() if re.match("read after.*child, private", name)
    )
    assert _differs(scenario, kernel, Config(fault_around=8))


@pytest.mark.parametrize("before", [(6, 14), (6, 12)])
def test_the_rules_of_an_older_kernel_are_noticed(kernel: KernelRunner, before: tuple[int, int]) -> None:
    config = Config(kernel=before)
    assert any(_differs(each, kernel, config) for each in HUGE.values())
