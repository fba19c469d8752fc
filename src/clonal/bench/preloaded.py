"""Importing this builds the heap: what a forkserver is given to preload.

It imports what its children would else import one by one.
"""

from __future__ import annotations

from clonal.bench import child, launchers_library, nothing  # noqa: F401
from clonal.bench.heap import warm

warm()
