"""How clones and templates end: flushed and finalised, but without the interpreter's teardown.

Teardown would write to every object that the process shares (40 ms and 7,500 faults for 226 MB).
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from typing import NoReturn

_finalizers_before = -1
_owner = 0  # the process that finalizers and files from before belong to; 0: to any that has them


def remember_template_exit() -> None:
    """Before the freeze: finalizers that exist now belong to the template and run in it alone."""
    global _finalizers_before
    _finalizers_before = _last_finalizer()


def _last_finalizer() -> int:
    weakref = sys.modules.get("weakref")
    registry = weakref.finalize._registry if weakref is not None else {}
    newest = next(reversed(registry.values()), None)
    return -1 if newest is None else newest.index


def leave_to_this_process() -> None:
    """In the template, when all is warm: what is to be finalised and flushed belongs to it, and its clones
    see only to what they made themselves."""
    global _owner
    _owner = os.getpid()


def forget_exits() -> None:
    """In a fork that lives on its own: what was registered with atexit is the parent's, and so is what is
    to be finalised."""
    global _owner
    _owner = os.getppid()
    atexit._clear()


def _inherited() -> bool:
    return _owner not in (0, os.getpid())


def only_flushes() -> bool:
    """Whether nothing was left in this process that its clones have to flush at their end, but stdout and
    stderr."""
    finalise = sys.modules.get("clonal.image.finalise")
    return finalise is None or finalise.nothing_left()


def flush_streams() -> None:
    """Writes out what was printed; a closed or broken stream is no reason to fail."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass


def end_process(code: int) -> NoReturn:
    """Ends this process with `code`, negative for death by that signal."""
    try:
        _say_goodbye()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        flush_streams()
        if code < 0:
            signal.signal(-code, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [-code])
            os.kill(os.getpid(), -code)
        os._exit(code)


def _say_goodbye() -> None:
    if (threading := sys.modules.get("threading")) is not None:
        threading._shutdown()
    if _inherited():
        _run_own_finalizers()
    atexit._run_exitfuncs()
    if (logging := sys.modules.get("logging")) is not None:
        logging.shutdown()
    flush_streams()
    _finish_objects()


def _run_own_finalizers() -> None:
    weakref = sys.modules.get("weakref")
    if weakref is None or _last_finalizer() <= _finalizers_before:
        return
    for info in weakref.finalize._registry.values():
        if info.index <= _finalizers_before:
            info.atexit = False
    weakref.finalize._exitfunc()


def _finish_objects() -> None:
    """Without teardown nothing is finalised by itself: a clone finalises what it made, and flushes."""
    finalise = sys.modules.get("clonal.image.finalise")
    if finalise is not None:
        for failed in finalise.finish_clone() if _inherited() else finalise.flush_all():
            print(failed, file=sys.stderr)
