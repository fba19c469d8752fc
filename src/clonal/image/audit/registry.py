"""The checks, and how they are run: each alone, so that one that fails costs only itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from clonal.image.audit.descriptors import Descriptor, descriptors
from clonal.image.audit.hazard import Hazard, rank
from clonal.image.audit.heap import Heap
from clonal.image.audit.python_threads import PythonThread, other_python_threads
from clonal.image.audit.tasks import AddressSpace, Task, other_tasks


class Facts:
    """What all checks look at, read once: descriptors, mappings, threads, heap."""

    def __init__(self, ignore_fds: Collection[int], wanted: Iterable[str]) -> None:
        self._ignore_fds = ignore_fds
        self._wanted = wanted

    @cached_property
    def descriptors(self) -> list[Descriptor]:
        return descriptors(self._ignore_fds)

    @cached_property
    def space(self) -> AddressSpace:
        return AddressSpace()

    @cached_property
    def tasks(self) -> list[Task]:
        return other_tasks(self.space)

    @cached_property
    def python_threads(self) -> list[PythonThread]:
        # After the kernel's list: one that was just started has by then run its first line.
        return other_python_threads() if self.tasks else []

    @cached_property
    def heap(self) -> Heap:
        return Heap(self._wanted)


Check = Callable[[Facts], Iterable[Hazard]]


@dataclass(frozen=True)
class Entry:
    run: Check
    classes: tuple[str, ...]


_entries: list[Entry] = []


def check(*classes: str) -> Callable[[Check], Check]:
    """Register a check, with the classes ("module:Class") whose instances it asks the heap for."""

    def register(function: Check) -> Check:
        _entries.append(Entry(function, classes))
        return function

    return register


def run_all(ignore_fds: Collection[int] = ()) -> list[Hazard]:
    """The hazards that all checks find, the worst first."""
    facts = Facts(ignore_fds, {spec for entry in _entries for spec in entry.classes})
    found = [hazard for entry in _entries for hazard in _guarded(entry.run, facts)]
    return sorted(found, key=rank)


def _guarded(function: Check, facts: Facts) -> Iterator[Hazard]:
    try:
        yield from function(facts)
    except Exception as error:
        # Objects on the heap may answer with anything; the rest of the audit is still worth having.
        name = getattr(function, "__name__", "a check")
        yield Hazard(
            "audit-incomplete",
            "note",
            f"the check {name!r} failed with {type(error).__name__}",
            "what it looks for may be there: see docs/hazards.md",
        )
