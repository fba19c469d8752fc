"""The mutation check: with any one rule of the model broken, scenarios no longer agree with the kernel."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import numpy as np
import pytest

from clonal.model import Config, fork
from clonal.model import faults as fault_rules
from clonal.model.frames import Frames
from clonal.model.space import AddressSpace
from clonal.model.tables import Tables
from clonal.model.vma import Vma
from clonal.scenario import KernelRunner, ModelRunner, Scenario, compare
from tests.conformance.combinations import combinations, rare
from tests.conformance.scenarios import Author

pytestmark = pytest.mark.allow_leaks  # the runner lives as long as the module

MODELLED = {name: each for name, each in combinations() if "THP" not in name}


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


def _without_write_protection(space: AddressSpace, vma: Vma) -> Any:
    writable = vma.writable.copy()
    result = _copy_entries(space, vma)
    vma.writable[:] = writable
    return result


def _no_reuse(space: AddressSpace, vma: Vma, index: Any) -> Any:
    kept = space.frames.mapped.copy()
    space.frames.mapped[vma.frame[index]] += vma.shared is False
    space.frames.exclusive[vma.frame[index]] = False
    try:
        return _write_present(space, vma, index)
    finally:
        old = kept.size
        space.frames.mapped[:old] = np.minimum(space.frames.mapped[:old], np.maximum(kept, 1))


def _no_window(vma: Vma, index: Any, around: int) -> tuple[Any, Any]:
    return np.arange(index.size), index


def _locks_inherited(vma: Vma, **changes: Any) -> Vma:
    return _replace(vma, **(changes | {"locked": vma.locked}))


def _wiped_no_more(vma: Vma, **changes: Any) -> Vma:
    return _replace(vma, **(changes | {"wipe_on_fork": False}))


def _all_alone(self: Frames, frames: Any) -> None:
    _unmap(self, frames)
    self.exclusive[frames] = True


_replace = fork.replace

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
    "frames are never freed from an exec": _break(AddressSpace, "destroy", lambda self: None),
}


def _agrees_everywhere(kernel: KernelRunner) -> bool:
    scenarios = [*MODELLED.values(), *(Author(Random(n), modelled=True).write() for n in range(60))]
    scenarios += rare([4, 8])
    return all(not _differs(each, kernel, None) for each in scenarios)


def _differs(scenario: Scenario, kernel: KernelRunner, config: Config | None) -> bool:
    with ModelRunner(config) as model:
        try:
            return bool(compare(scenario, model, kernel))
        except Exception:
            return True  # a broken model may also break down


@pytest.mark.parametrize("rule", MUTANTS)
def test_a_broken_rule_is_noticed(rule: str, kernel: KernelRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[rule](monkeypatch)
    assert not _agrees_everywhere(kernel)


def test_another_fault_around_is_noticed(kernel: KernelRunner) -> None:
    scenario = next(each for name, each in MODELLED.items() if re.match("read after.*child, private", name))
    assert _differs(scenario, kernel, Config(fault_around=8))
