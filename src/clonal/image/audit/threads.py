"""Threads: fork copies the calling one alone, and every lock as it was held at that instant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from clonal.image.audit.hazard import Hazard, counted, listed
from clonal.image.audit.libraries import Library, owner_of
from clonal.image.audit.registry import Facts, check
from clonal.image.audit.tasks import Task

EXECUTOR = "concurrent.futures.thread:ThreadPoolExecutor"
THREAD_POOL = "multiprocessing.pool:ThreadPool"
PROCESS_EXECUTOR = "concurrent.futures.process:ProcessPoolExecutor"
PROCESS_POOL = "multiprocessing.pool:Pool"
RUNNING = "RUN"  # multiprocessing.pool's state of a pool that is not closed


@check(EXECUTOR, THREAD_POOL)
def thread_pools(facts: Facts) -> Iterator[Hazard]:
    """Executors that have started workers: in a clone their queue is never served."""
    executors = [one for one in facts.heap.instances(EXECUTOR) if _workers(one)]
    pools = [one for one in facts.heap.instances(THREAD_POOL) if _workers(one)]
    if executors or pools:
        yield Hazard(
            "thread-pool",
            "danger",
            listed(_pool_text(one) for one in executors + pools),
            "shut it down before the freeze, or make it in the clone: work submitted in a clone waits "
            "for workers that it does not have",
        )


def _workers(pool: Any) -> list[Any]:
    """Living threads of an executor, or of a multiprocessing ThreadPool with its three handlers."""
    members = list(vars(pool).get("_threads", ())) + list(vars(pool).get("_pool", ()))
    handlers = [vars(pool).get(f"_{part}_handler") for part in ("worker", "task", "result")]
    return [one for one in members + handlers if one is not None and one.is_alive()]


def _pool_text(pool: Any) -> str:
    prefix = vars(pool).get("_thread_name_prefix")
    name = f" {prefix!r}" if prefix else ""
    return f"{type(pool).__qualname__}{name} with {counted(len(_workers(pool)), 'thread')}"


@check(EXECUTOR, THREAD_POOL)
def python_threads(facts: Facts) -> Iterator[Hazard]:
    """Threads that run Python code, but for the workers of the pools above."""
    pools = facts.heap.instances(EXECUTOR) + facts.heap.instances(THREAD_POOL)
    pooled = {worker.ident for pool in pools for worker in _workers(pool)}
    found = [one for one in facts.python_threads if one.ident not in pooled]
    if found:
        yield Hazard(
            "python-thread",
            "danger",
            f"{counted(len(found), 'other Python thread')}: {listed(one.describe() for one in found)}",
            "stop it before the freeze and start it in the clones (in_clone hook): clones do not have "
            "it, and a lock it holds stays locked in them for ever",
        )


@check()
def native_threads(facts: Facts) -> Iterator[Hazard]:
    """Threads that no Python code knows, by the library that owns them."""
    owners: dict[Library, list[Task]] = {}
    for task in facts.tasks:
        if not any(thread.is_task(task) for thread in facts.python_threads):
            owners.setdefault(owner_of(task), []).append(task)
    for library, tasks in owners.items():
        number = counted(len(tasks), "native thread")
        names = listed(task.describe() for task in tasks)
        yield Hazard(
            library.hazard,
            library.severity,
            f"{number}: {names}; {library.why}",
            library.remedy,
        )


@check(PROCESS_EXECUTOR, PROCESS_POOL, THREAD_POOL)
def process_pools(facts: Facts) -> Iterator[Hazard]:
    """Pools of worker processes: they serve the process that made them, through pipes clones share."""
    threads = {id(one) for one in facts.heap.instances(THREAD_POOL)}
    pools = [one for one in facts.heap.instances(PROCESS_POOL) if id(one) not in threads]
    pools = [one for one in pools if vars(one).get("_state") == RUNNING]
    executors = [one for one in facts.heap.instances(PROCESS_EXECUTOR) if vars(one).get("_processes")]
    if pools or executors:
        names = (f"{type(one).__qualname__} with {_processes(one)}" for one in pools + executors)
        yield Hazard(
            "process-pool",
            "danger",
            listed(names),
            "shut it down before the freeze; clones are workers themselves (Template.map)",
        )


def _processes(pool: Any) -> str:
    return counted(len(vars(pool).get("_pool") or vars(pool).get("_processes") or ()), "worker")
