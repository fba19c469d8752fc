"""Importing this builds the heap: what a forkserver is given to preload."""

from __future__ import annotations

from clonal.bench import launchers_library  # noqa: F401  (the child's function, imported once)
from clonal.bench.heap import warm

warm()
