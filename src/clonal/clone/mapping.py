"""Ordered results of many clones, a bounded number of them at a time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from clonal.clone.handle import Clone


def ordered(
    clone: Callable[..., Clone], fn: Callable[[Any], Any], iterable: Iterable[Any], concurrency: int | None
) -> Iterator[Any]:
    """Yields the results; ends the clones that still run when it is closed or one has failed."""
    limit = concurrency if concurrency is not None else len(os.sched_getaffinity(0))
    if limit < 1:
        raise ValueError(f"concurrency must be at least 1, not {limit}")
    return _run(clone, fn, iter(iterable), limit)


def _run(
    clone: Callable[..., Clone], fn: Callable[[Any], Any], items: Iterator[Any], limit: int
) -> Iterator[Any]:
    running: deque[Clone] = deque()
    try:
        for item in items:
            running.append(clone(fn, item))
            if len(running) >= limit:
                yield running[0].result()
                running.popleft()
        while running:
            yield running[0].result()
            running.popleft()
    finally:
        for left in running:
            left.kill()
            left.wait()
