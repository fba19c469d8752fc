"""The recording of a template's clones: `Template(record=FILE)`, and templates in what `clonal record` runs.

The template itself is not recorded: it waits in C, and what it still writes its clones do not see. A clone
is, from its fork until its answer is sent or it ends.
"""

from __future__ import annotations

import os
import sys
import time
import warnings

from clonal.clone import hooks
from clonal.observe.record import hook, trap
from clonal.observe.record.beginning import beginning
from clonal.observe.record.file import LIMIT, Kind

LOST = "{}; pages are counted at the end of each clone, without lines, causes and types"


class Recorder(hook.Recorder):
    """Of a template whose recording begins and ends with it."""

    def __init__(self, path: str, traps: bool) -> None:
        super().__init__(path, LIMIT)
        self.traps = traps
        self._template = os.getpid()
        backend = "sigtrap" if traps else "snapshot"
        self.writer.write(Kind.BEGIN, beginning([sys.executable, *sys.argv], backend), pid=0)

    def finish(self, ends: bool = True) -> None:
        super().finish(ends)
        if os.getpid() == self._template:
            self._template = 0
            self.writer.write(Kind.END, {"time": time.monotonic_ns(), "status": 0}, pid=0)


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
    if recorder is not None:
        recorder.finish(ends=False)  # what it has of this process: the heap is about to be replaced
        recorder.waiting = os.getpid()
        hooks.before_answer(recorder.finish)


def _traps() -> bool:
    try:
        trap.require()
    except trap.CannotRecord as error:
        warnings.warn(LOST.format(error), RuntimeWarning, stacklevel=1)
        return False
    return True
