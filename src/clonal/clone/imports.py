"""Which modules clones import themselves: each is advice to preload it in the template.

How to use it: the template calls `watch()` before it freezes; a clone asks `collected()` at its end
and sends what it finds, if anything, with its result; the client adds that to a `Tally`, whose
`rows()` go into `t.stats()`. Where nothing is imported nothing is called: importlib asks the
finders on sys.meta_path only about modules that are not loaded.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import FunctionType, ModuleType
from typing import Any, NamedTuple, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])
PAGE = os.sysconf("SC_PAGE_SIZE")


class Imported(NamedTuple):
    """One import that a clone did: with all that it imported in turn."""

    name: str
    ms: float
    mb: float


class _Inside(threading.local):
    importing = False


def _as_importlib(function: _Function) -> _Function:
    """Import's own frames are known by their file's name: `warnings` does not count them as callers of a
    module that warns, and tracebacks leave them out."""
    assert isinstance(function, FunctionType)
    function.__code__ = function.__code__.replace(co_filename="<frozen importlib._bootstrap>")
    return function


class Watcher:
    """A finder that finds what the others find, and times the outermost loads."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.found: list[Imported] = []
        self._inside = _Inside()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if self._inside.importing:
            return None  # part of an import that is being timed: the next finder's turn
        start = time.perf_counter()
        spec = self._from_others(name, path, target)
        if spec is not None and spec.loader is not None:
            self._time(spec, start)
        return spec

    def _from_others(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        self._inside.importing = True  # what finders import for themselves is none of the clone's
        try:
            for finder in sys.meta_path[:]:
                find = getattr(finder, "find_spec", None)
                if finder is self or find is None:
                    continue
                spec: ModuleSpec | None = find(name, path, target)
                if spec is not None:
                    return spec
            return None
        finally:
            self._inside.importing = False

    def _time(self, spec: ModuleSpec, start: float) -> None:
        """Shadow the loader's exec_module for one call. A loader that is a class serves all its
        modules (built-in and frozen ones, which cost nothing): left alone."""
        loader: Any = spec.loader
        execute = getattr(loader, "exec_module", None)
        if isinstance(loader, type) or execute is None:
            return

        try:
            loader.exec_module = functools.partial(self._execute, loader, execute, spec.name, start)
        except AttributeError:  # no room for it
            return

    @_as_importlib
    def _execute(self, loader: Any, execute: Any, name: str, start: float, module: ModuleType) -> None:
        del loader.exec_module
        if self._inside.importing:
            execute(module)
            return
        before = _resident()
        self._inside.importing = True
        try:
            execute(module)
        finally:
            self._inside.importing = False
        ms = (time.perf_counter() - start) * 1e3
        self._own().append(Imported(name, ms, max(0, _resident() - before) / 1e6))

    def _own(self) -> list[Imported]:
        """This process's list: a clone starts with an empty one."""
        if self.pid != os.getpid():
            self.pid, self.found = os.getpid(), []
        return self.found


def _resident() -> int:
    """Bytes of this process in memory."""
    fd = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(os.read(fd, 128).split()[1]) * PAGE
    finally:
        os.close(fd)


_watcher: Watcher | None = None


def watch() -> None:
    """Watch this process's imports, and those of the processes forked from it."""
    global _watcher
    if _watcher is None:
        _watcher = Watcher()
    if _watcher not in sys.meta_path:
        sys.meta_path.insert(0, _watcher)


def unwatch() -> None:
    """Stop watching, and forget."""
    global _watcher
    if _watcher is not None and _watcher in sys.meta_path:
        sys.meta_path.remove(_watcher)
    _watcher = None


def collected() -> list[Imported]:
    """What this process itself has imported since `watch()` or since it was forked."""
    if _watcher is None or _watcher.pid != os.getpid():
        return []
    return list(_watcher.found)


@dataclass
class Row:
    """One module in `stats()`: how many clones imported it, and what it cost each on average."""

    name: str
    clones: int = 0
    ms: float = 0.0
    mb: float = 0.0


class Tally:
    """Adds up what clones report."""

    def __init__(self) -> None:
        self._sums: dict[str, Row] = {}

    def add(self, imported: Iterable[Imported]) -> None:
        """The report of one clone."""
        for name, ms, mb in imported:
            row = self._sums.setdefault(name, Row(name))
            row.clones += 1
            row.ms += ms
            row.mb += mb

    def rows(self) -> list[Row]:
        """By the time that preloading each would have saved so far, the worst first."""
        worst = sorted(self._sums.values(), key=lambda row: -row.ms)
        return [Row(row.name, row.clones, row.ms / row.clones, row.mb / row.clones) for row in worst]
