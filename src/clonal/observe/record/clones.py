"""The recording of a template's clones: `Template(record=FILE)`, and templates in what `clonal record` runs.

The template itself is not recorded: it waits in C, and what it still writes its clones do not see. A clone
is, from its fork until its answer is sent or it ends.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
import warnings

from clonal.clone import hooks
from clonal.observe.record import hook, trap
from clonal.observe.record.beginning import beginning
from clonal.observe.record.file import LIMIT, Kind
from clonal.observe.record.keeping import Keeping

LOST = "{}; pages are counted at the end of each clone, without lines, causes and types"
UNKEPT = "{}: {}; a clone that is killed takes with it the faults of its last 200 ms"


class Recorder(hook.Recorder):
    """Of a template whose recording begins and ends with it."""

    def __init__(self, path: str, traps: bool) -> None:
        super().__init__(path, LIMIT)
        self.traps = traps
        self.waiting = os.getpid()
        backend = "sigtrap" if traps else "snapshot"
        self.writer.write(Kind.BEGIN, beginning([sys.executable, *sys.argv], backend), pid=0)
        self._rings = _keeping(path) if traps else None
        if self._rings is not None:
            self.keeper(self._rings.address)

    def end(self) -> None:
        """With the template, when its clones have ended."""
        if self._rings is not None:
            self._rings.close()
        self._write(Kind.END, {"time": time.monotonic_ns(), "status": 0}, pid=0)


def prepare(path: str | None) -> None:
    """In a template, just before its freeze. Without `path`: if this process is recorded anyway.

    Raises OSError where the recording cannot be written, CannotRecord where another one is.
    """
    recorder = hook.installed
    if path is not None:
        if recorder is not None:
            raise trap.CannotRecord("this program is recorded already; leave out `record`")
        recorder = Recorder(path, _traps())
        recorder.install()
        atexit.register(recorder.end)  # clones have forgotten that
    elif recorder is not None:
        recorder.finish(ends=False)  # what it has of this process: the heap is about to be replaced
        recorder.waiting = os.getpid()
    if recorder is not None:
        hooks.before_answer(recorder.finish)


def _keeping(path: str) -> Keeping | None:
    """Where this process may start no other, what is lost by that is said."""
    try:
        return Keeping(path)
    except OSError as error:
        warnings.warn(UNKEPT.format(sys.executable, error.strerror), RuntimeWarning, stacklevel=1)
        return None


def _traps() -> bool:
    try:
        trap.require()
    except trap.CannotRecord as error:
        warnings.warn(LOST.format(error), RuntimeWarning, stacklevel=1)
        return False
    return True
