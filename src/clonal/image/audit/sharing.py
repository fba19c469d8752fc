"""What multiprocessing and subprocess tie to the process that made it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from clonal.image.audit.hazard import Hazard, counted, listed
from clonal.image.audit.heap import ask, namespace
from clonal.image.audit.registry import Facts, check

SEMAPHORE = "_multiprocessing:SemLock"
LOCK = "multiprocessing.synchronize:SemLock"
SHARED_MEMORY = "multiprocessing.shared_memory:SharedMemory"
POPEN = "subprocess:Popen"
TRACKER = "multiprocessing.resource_tracker"


def tracker_descriptors() -> set[int]:
    """The pipe to multiprocessing's resource tracker."""
    tracker = namespace(sys.modules.get(TRACKER)).get("_resource_tracker")
    fd = getattr(tracker, "_fd", None)
    return {fd} if isinstance(fd, int) else set()


@check()
def resource_tracker(_facts: Facts) -> Iterator[Hazard]:
    """The tracker process, which unlinks named resources once all holders of its pipe are gone."""
    for fd in tracker_descriptors():
        yield Hazard(
            "resource-tracker",
            "note",
            f"multiprocessing's resource tracker runs, fd {fd} is its pipe",
            "make shared memory and semaphores in the clone: clones register theirs with the same "
            "tracker, which cleans up only when the last of them has ended",
        )


@check(LOCK)
def semaphores(facts: Facts) -> Iterator[Hazard]:
    """multiprocessing's locks: one semaphore for all clones; one that is held now stays held."""
    locks = facts.heap.instances(LOCK)
    held = [type(one).__qualname__ for one in locks if _held(one)]
    if held:
        yield Hazard(
            "multiprocessing-lock",
            "danger",
            f"held now: {listed(held)}",
            "release it before the freeze: every clone that acquires it waits for a release that none of "
            "them may give",
        )
    free = len(locks) - len(held)
    if free:
        yield Hazard(
            "multiprocessing-lock",
            "note",
            counted(free, "free multiprocessing lock"),
            "one semaphore for the template and all clones: a clone that dies holding it blocks the rest",
        )


def _held(lock: Any) -> bool:
    return bool(ask(lambda: lock._semlock._is_zero(), default=False))


@check(SHARED_MEMORY)
def shared_memory(facts: Facts) -> Iterator[Hazard]:
    """Named shared memory: not copied on write, all clones write the same bytes."""
    names = [str(vars(one).get("_name")) for one in facts.heap.instances(SHARED_MEMORY) if _mapped(one)]
    if names:
        yield Hazard(
            "shared-memory",
            "warning",
            listed(names),
            "nothing to do if clones are meant to share it; only its maker may unlink() it",
        )


def _mapped(memory: Any) -> bool:
    return vars(memory).get("_mmap") is not None


@check(POPEN)
def child_processes(facts: Facts) -> Iterator[Hazard]:
    """Children that run: no clone can wait for them, they are not its children."""
    children = [one.pid for one in facts.heap.instances(POPEN) if _runs(one)]
    active = namespace(sys.modules.get("multiprocessing.process")).get("_children", ())
    children += [one.pid for one in list(active) if getattr(one, "pid", None)]
    if children:
        yield Hazard(
            "child-process",
            "warning",
            f"pid {listed(map(str, children))}",
            "wait for it before the freeze: a clone that waits for it gets ECHILD, and its pipes have two "
            "owners",
        )


def _runs(popen: Any) -> bool:
    return vars(popen).get("returncode") is None and bool(vars(popen).get("pid"))
