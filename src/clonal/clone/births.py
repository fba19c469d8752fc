"""A clone's birth without the work of `threading._after_fork`.

That hook forgets the threads a fork left behind and renews locks: some 60 pages touched, a fifth of a
clone's time to its first result. The template has one thread, no lock is held while it waits in C, and
it has run the hook itself before its freeze; so for a clone made from it there is nothing to do. In
any later fork, by a clone that may have threads, the hook runs as ever.
"""

from __future__ import annotations

import gc
import threading

_real = threading._after_fork  # type: ignore[attr-defined]
_expected = False  # True from the template's freeze until the clone is born


def lighten() -> bool:
    """Puts the lighter hook in the place of threading's. Whether that list of hooks was found: the
    interpreter shows it to the garbage collector only. Call it while the heap is small."""
    lists = [each for each in gc.get_referrers(_real) if type(each) is list and all(map(callable, each))]
    if len(lists) != 1 or lists[0].count(_real) != 1:
        return False
    lists[0][lists[0].index(_real)] = _after_fork
    return True


def expect() -> None:
    """The next forks are clones of this single-threaded process, frozen as it is now."""
    global _expected
    _real()
    _expected = len(threading._active) == 1  # type: ignore[attr-defined]


def _after_fork() -> None:
    global _expected
    if _expected:
        _expected = False
    else:
        _real()
