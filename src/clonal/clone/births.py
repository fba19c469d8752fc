"""A clone's birth without the work of `threading._after_fork`.

That hook forgets the threads a fork left behind and renews locks: some 60 pages touched, a fifth of a
clone's time to its first result. The template has one thread, no lock is held while it waits in C, and
it has run the hook itself before its freeze; so for a clone made from it there is nothing to do. In
any later fork, by a clone that may have threads, the hook runs as ever.
"""

from __future__ import annotations

import gc
import threading

from clonal import _native

_real = threading._after_fork  # type: ignore[attr-defined]


def lighten() -> bool:
    """Puts the lighter hook in the place of threading's. Whether that list of hooks was found: the
    interpreter shows it to the garbage collector only. Call it while the heap is small."""
    lists = [each for each in gc.get_referrers(_real) if type(each) is list and all(map(callable, each))]
    if len(lists) != 1 or lists[0].count(_real) != 1:
        return False
    lists[0][lists[0].index(_real)] = _native.instead_of(_real)
    return True


def settle() -> None:
    """Does before the freeze, in the template, what the hook would do in each clone."""
    _real()


def single_threaded() -> bool:
    """Whether clones of this process, as it is now, have nothing to do after the fork."""
    return len(threading._active) == 1  # type: ignore[attr-defined]
