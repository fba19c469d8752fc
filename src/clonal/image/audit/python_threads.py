"""The other threads that run Python code: their names, their targets, where they are."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from pathlib import PurePath
from types import FrameType

from clonal.image.audit.heap import ask
from clonal.image.audit.tasks import Task

WAITING_IN = ("threading.py", "queue.py", "selectors.py", "connection.py")


@dataclass(frozen=True)
class PythonThread:
    ident: int
    tid: int | None
    name: str
    target: str
    frame: FrameType | None

    def describe(self) -> str:
        tid = f" (tid {self.tid})" if self.tid else ""
        target = f" running {self.target}" if self.target else ""
        return f"{self.name!r}{tid}{target}{_place(self.frame)}"

    def is_task(self, task: Task) -> bool:
        """By thread id; one started with _thread has only its identity, which lies on its stack."""
        if self.tid is not None:
            return self.tid == task.tid
        return task.stack is not None and task.stack.start <= self.ident < task.stack.end


def other_python_threads() -> list[PythonThread]:
    """Threads that threading knows, and those started under it with _thread."""
    own = threading.get_ident()
    frames = sys._current_frames()
    found = {}
    for thread in threading.enumerate():
        ident = thread.ident
        if ident is not None and ident != own:
            target = _target_name(vars(thread).get("_target"))
            found[ident] = PythonThread(ident, thread.native_id, thread.name, target, frames.get(ident))
    for ident, frame in frames.items():
        if ident != own and ident not in found:
            found[ident] = PythonThread(ident, None, "(started with _thread)", "", frame)
    return list(found.values())


def _target_name(target: object) -> str:
    if target is None:
        return ""
    name = ask(getattr, target, "__qualname__", default=type(target).__qualname__)
    return f"{ask(getattr, target, '__module__', default='?')}.{name}"


def _place(frame: FrameType | None) -> str:
    """Where a thread is: the innermost line that is not the standard library waiting."""
    if frame is None:
        return ""
    innermost: FrameType | None = frame
    while innermost and PurePath(innermost.f_code.co_filename).name in WAITING_IN:
        innermost = innermost.f_back
    shown = innermost or frame
    return f" at {shown.f_code.co_filename}:{shown.f_lineno} in {shown.f_code.co_qualname}"
