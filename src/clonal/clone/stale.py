"""Whether the files that a template has loaded have changed since.

The template takes a `Snapshot` when it is warm; it is small and can be pickled, so the client may
keep it and ask `changed()` before each clone.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from types import ModuleType
from typing import NamedTuple

CHECK_SECONDS = 0.2  # a question within this time of the last check gets the same answer
SHARE = 50  # and a check that takes long is not repeated before this many times its cost


class Stamp(NamedTuple):
    """What tells one content of a file from another without reading it."""

    mtime_ns: int
    size: int
    inode: int


def _stamp(path: str) -> Stamp | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return Stamp(status.st_mtime_ns, status.st_size, status.st_ino)


def _file_of(module: ModuleType) -> str | None:
    """The file a module was loaded from; of one in a zip archive, the archive."""
    archive = getattr(getattr(module, "__loader__", None), "archive", None)
    path = archive if isinstance(archive, str) else getattr(module, "__file__", None)
    return os.path.abspath(path) if isinstance(path, str) else None


class Snapshot:
    """The files behind the loaded modules (site-packages and extensions too), the main script, and
    `extra` such as the setup's file, each as it was when the snapshot was taken."""

    def __init__(self, files: dict[str, Stamp]) -> None:
        self.files = files
        self._changed: list[str] = []
        self._valid_until = 0.0

    @classmethod
    def take(cls, extra: Iterable[str] = ()) -> Snapshot:
        """A snapshot of this process as it is now."""
        found: dict[str, Stamp] = {}
        loaded = (_file_of(module) for module in list(sys.modules.values()) if module is not None)
        for path in (*loaded, *(os.path.abspath(path) for path in extra)):
            if path is None or path in found:
                continue
            stamp = _stamp(path)
            if stamp is not None:
                found[path] = stamp
        return cls(found)

    def changed(self) -> list[str]:
        """The files that differ by now, deleted ones too, in order. Costs a microsecond or two for
        each file, at most every 200 ms."""
        now = time.monotonic()
        if now >= self._valid_until:
            self._changed = sorted(path for path, stamp in self.files.items() if _stamp(path) != stamp)
            end = time.monotonic()
            self._valid_until = end + max(CHECK_SECONDS, SHARE * (end - now))
        return list(self._changed)

    def __reduce__(self) -> tuple[type[Snapshot], tuple[dict[str, Stamp]]]:
        return Snapshot, (self.files,)
