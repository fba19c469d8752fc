"""Nothing that would have been flushed or finalised at exit is lost by a freeze.

An immortal object is never deallocated, so its `__del__` never runs, a suspended generator never
reaches its `finally`, a file held by it never writes its buffer. Whatever had a finaliser when the
heap was frozen is listed here and finalised at exit, after all atexit callbacks, in a frozen process
and in children it makes with `os.fork`, just as each of them would have done unfrozen.

Clones differ on purpose: a clone flushes what it wrote and finalises what it made itself, but leaves
the template's objects alone. They belong to the template: the finaliser of a NamedTemporaryFile
would delete the template's file, a connection's would say goodbye in its name.
"""

from __future__ import annotations

import _io
import _thread
import atexit
import gc
import sys
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

from clonal import _native
from clonal.image.order import holders_first

_WRITERS = (_io.TextIOWrapper, _io.BufferedWriter, _io.BufferedRandom, _io.BufferedRWPair)
_IN_MEMORY = (_io.StringIO, _io.BytesIO)  # closing one has no effect that outlives the process


@dataclass
class _State:
    """What the frozen process has to finish."""

    frozen: list[object] = field(default_factory=list)  # immortal; oldest first
    untracked: list[object] = field(default_factory=list)  # immortal, unknown to the collector
    theirs: set[int] = field(default_factory=set)  # immortal, of the template this clone came from
    writers: list[object] = field(default_factory=list)  # streams among the frozen, but the standard ones
    mortal: list[weakref.ref[object]] = field(default_factory=list)  # mortal when frozen
    mortal_ids: set[int] = field(default_factory=set)  # the same, where a type has no weak references
    unfreeze: bool = False  # a mortal heap is in the collector's frozen generation
    installed: bool = False


_state = _State()


def remember_immortal(frozen: list[object], untracked: list[object], *, unfreeze: bool) -> list[str]:
    """After the heap became immortal: finalise these at exit. Returns what could not be arranged.

    `frozen` is all there is, `untracked` what is new. In a clone, which has forgotten the template's
    atexit callbacks, what was frozen before remains the template's. `unfreeze`: mortal objects are
    hidden from the collector as well.
    """
    _state.unfreeze = unfreeze
    if _state.installed and not _native.atexit_is_last(_at_exit):
        _state.theirs |= {id(each) for each in _state.frozen}
        _state.untracked = []
    _state.frozen = [each for each in frozen if id(each) not in _state.theirs]
    _state.untracked += untracked
    standard = {id(each) for each in _standard_streams()}
    _state.writers = [each for each in frozen if _is_a(each, *_WRITERS) and id(each) not in standard]
    return _remember()


def remember_mortal() -> list[str]:
    """After a freeze that left the heap mortal: at exit the collector sees it again, as it would have."""
    _state.unfreeze = True
    return _remember()


def _remember() -> list[str]:
    _state.installed = True
    atexit.unregister(_at_exit)
    atexit.register(_at_exit)
    if _native.atexit_last(_at_exit):
        return []
    return ["frozen objects are finalised before those atexit callbacks that were registered first"]


def finaliser_types(objects: Iterable[object]) -> dict[str, int]:
    """How many of each type with a finaliser that still has something to do, most frequent first."""
    standard = {id(each) for each in _standard_streams()}
    wanted = (
        type(each)
        for each in objects
        if _native.has_finaliser(type(each)) and id(each) not in standard and _unfinished(each)
    )
    return {f"{kind.__module__}.{kind.__qualname__}": n for kind, n in Counter(wanted).most_common()}


def _unfinished(each: object) -> bool:
    if type(each) in _IN_MEMORY:
        return False
    if _is_a(each, _io._IOBase):
        return not _closed(each)
    for frame in ("gi_frame", "cr_frame", "ag_frame"):
        if hasattr(type(each), frame) and type(each).__module__ == "builtins":
            return getattr(each, frame) is not None
    return True


# ---- flushing ----


def remember_theirs(objects: Iterable[object]) -> None:
    """Mortal objects with finalisers at the freeze: clones leave them alone, but flush them even if the
    collector was told to forget them."""
    _state.mortal, _state.mortal_ids = [], set()
    standard = {id(each) for each in _standard_streams()}
    for each in objects:
        if id(each) in standard:
            continue
        try:
            _state.mortal.append(weakref.ref(each))
        except TypeError:
            _state.mortal_ids.add(id(each))


def flush_all() -> list[str]:
    """Write what any open stream of this process has buffered; what could not be written, and why.

    Runs no finaliser. Text layers come first, so that a second flush of the layer below finds nothing.
    """
    return _flush(sorted(_open_writers(), key=_depth))


def _flush(streams: Iterable[object]) -> list[str]:
    failed = []
    for stream in streams:
        try:
            if not _closed(stream):
                stream.flush()  # type: ignore[attr-defined]
        except Exception as error:
            failed.append(f"{_name(stream)} could not be flushed: {error}")
    return failed


def _open_writers() -> list[object]:
    theirs = [ref() for ref in _state.mortal]
    everywhere = chain(_state.writers, theirs, _native.finalisable_objects(), _standard_streams())
    found = {id(each): each for each in everywhere if _is_a(each, *_WRITERS) and not _closed(each)}
    return list(found.values())


def _closed(stream: object) -> bool:
    try:
        return bool(stream.closed)  # type: ignore[attr-defined]
    except Exception:  # detached, half-made, or a subclass with its own idea
        return True


def _name(stream: object) -> str:
    try:
        return f"{type(stream).__name__} {stream.name!r}"  # type: ignore[attr-defined]
    except Exception:
        return type(stream).__name__


def _is_a(each: object, *kinds: type) -> bool:
    """isinstance() that believes the type alone: proxies run code when asked for `__class__`."""
    mro = type(each).__mro__
    return any(kind in mro for kind in kinds)


def _standard_streams() -> Iterator[object]:
    """The streams others print to until the very end, with the layers below them."""
    for name in ("stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__"):
        stream = getattr(sys, name, None)
        for layer in ("buffer", "raw", None):
            if stream is None:
                break
            yield stream
            if layer is None or not _is_a(stream, _io._IOBase) or _closed(stream):
                break
            stream = getattr(stream, layer, None)


# ---- finalising ----


def _depth(each: object) -> int:
    """Who uses whom: generators and user objects, then streams from the text layer down, then sockets."""
    if not _is_a(each, _io._IOBase):
        return 5 if any(base.__module__ == "_socket" for base in type(each).__mro__) else 0
    if _is_a(each, _io.TextIOWrapper):
        return 2
    if _is_a(each, *_WRITERS, _io.BufferedReader):
        return 3
    return 4 if _is_a(each, _io.FileIO) else 1


def _running(each: object) -> bool:
    return any(getattr(each, name, False) is True for name in ("gi_running", "cr_running", "ag_running"))


def _finalisable(objects: Iterable[object]) -> list[object]:
    spared = {id(each) for each in _standard_streams()} | _held_by_other_threads()
    kinds: dict[type, bool] = {}
    found = []
    for each in objects:
        kind = type(each)
        if kind not in kinds:
            kinds[kind] = kind not in _IN_MEMORY and _native.has_finaliser(kind)
        if kinds[kind] and id(each) not in spared:
            found.append(each)
    return holders_first(found, _depth)


def _held_by_other_threads() -> set[int]:
    """Variables of daemon threads: those still use them, and an interpreter lets them be at exit."""
    own = _thread.get_ident()
    held: set[int] = set()
    for thread, frame in sys._current_frames().items():
        while thread != own and frame is not None:
            held.update(id(value) for value in frame.f_locals.values())
            frame = frame.f_back  # type: ignore[assignment]
    return held


def finalise_all(objects: Iterable[object]) -> None:
    """Call the finaliser of each, users before what they use. Errors are reported as unraisable."""
    for each in _finalisable(objects):
        if not (_is_generator(each) and _running(each)):
            _native.finalise(each)


def _is_generator(each: object) -> bool:
    return type(each).__name__ in ("generator", "coroutine", "async_generator")


def _at_exit() -> None:
    """Runs after all other atexit callbacks.

    Objects made after the freeze are finalised too: one that an immortal object holds would never be
    reached by the interpreter's own teardown.
    """
    if _state.unfreeze:
        gc.unfreeze()
    if _state.frozen or _state.untracked:
        flush_all()  # what fails is tried again, and reported, when the stream is closed
        untracked, _state.untracked = _state.untracked, []  # no mark says that those are done
        finalise_all(chain(_state.frozen, untracked, _native.finalisable_objects()))


def nothing_left() -> bool:
    """Whether clones of this process, as it is now, find nothing of its own that they have to flush."""
    living = any(ref() is not None for ref in _state.mortal)
    return not (living or _state.mortal_ids or _state.writers)


def finish_clone() -> list[str]:
    """At the end of a clone, after its atexit callbacks: finalise what it made, flush the rest; what
    could not be flushed, and why.

    Most clones have nothing to do here but print, and must find that out without touching many pages.
    """
    ours = _native.finalisable_objects()
    theirs = {id(each) for ref in _state.mortal if (each := ref()) is not None} | _state.mortal_ids
    if not (ours or theirs or _state.writers):
        return _flush((sys.stdout, sys.stderr))
    if ours := [each for each in ours if id(each) not in theirs]:
        finalise_all(ours)
    return flush_all()
