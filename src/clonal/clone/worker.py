"""What a clone does where something about its request is unusual; the usual is in _native/life.c.

Every line here is run in a clone right after the fork, where each page written is copied: so it is
short, and what is needed only sometimes is looked up only then.
"""

from __future__ import annotations

import atexit
import os
import pickle
import signal
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from clonal import _native
from clonal.clone import births, failure, hooks, pickling, wire
from clonal.clone.ending import end_process, flush_streams
from clonal.errors import ResultNotPicklable

ROUNDS = 20  # bytecode is specialised after a few
Answer = tuple[int, wire.Packed, int]  # kind or 0, payload, exit code

_prepared = False


class Place(NamedTuple):
    """Where a clone's answer goes, as life.c says it."""

    socket: int
    board: int  # address
    slot: int
    modules: int  # how many were loaded before the call
    born: int  # CLOCK_MONOTONIC, ns


def prepare_template() -> None:
    """Once, in the template, before the freeze. Then does on nothing what every clone will do: then
    bytecode is specialised and attributes are in the type cache, and clones do not write to those pages."""
    global _prepared
    if not _prepared:
        os.register_at_fork(after_in_child=_native.drop_wire)
    _prepared = True
    births.settle()
    for seed in (begin := _what_begins()):
        if seed not in hooks.inside():
            seed()
    _native.prepare_life(
        begin,
        hooks.last(),
        pickle.loads,
        pickle.dumps,
        (odd_request, odd_result, answer, failed, end_process),
        sys.modules,
        (atexit._clear, atexit._ncallbacks),
        _of("threading", "_active"),
        _of("weakref", "finalize", "_registry"),
        _of("logging", "_handlerList"),
        pickle.dumps((len, ((),), {}), protocol=5),
    )
    _rehearse()


def _what_begins() -> tuple[Callable[[], Any], ...]:
    """What each clone calls first: clones must not draw the same numbers (`random` sees to itself with
    register_at_fork), then the user's hooks."""
    seeds: list[Callable[[], Any]] = []
    if (numpy_random := sys.modules.get("numpy.random")) is not None:
        seeds.append(numpy_random.seed)
    if (torch := sys.modules.get("torch")) is not None:
        seeds.append(torch.default_generator.seed)
    return (*seeds, *hooks.inside())


def _of(module: str, *names: str) -> Any:
    """An attribute of a module if that is loaded, else None."""
    value: Any = sys.modules.get(module)
    for name in names:
        value = getattr(value, name, None)
    return value


def _rehearse() -> None:
    for _ in range(ROUNDS):
        ours, theirs = _native.wire_pair()
        wire.send(ours, wire.REQUEST, pickling.pack_call((len, ((),), {}), None))
        _send(Place(theirs, 0, 0, len(sys.modules), 0), *_run(*_native.wire_receive(theirs))[:2])
        wire.close_all((ours, theirs))


def odd_request(message: bytes, fds: tuple[int, ...], *place: Any) -> NoReturn:
    """A request with options, or whose payload is in a memory file."""
    _conclude(place, lambda: _run(message, fds))


def odd_result(value: object, *place: Any) -> NoReturn:
    """A result that plain pickle cannot pack, or with large buffers in it."""
    _conclude(place, lambda: _pack(value))


def answer(data: bytes, *place: Any) -> NoReturn:
    """A result already pickled, but large, or there is more to tell."""
    _conclude(place, lambda: (wire.RESULT, wire.pack(None, lambda *_, **__: data), 0))


def failed(error: BaseException, *place: Any) -> NoReturn:
    """What the call, a hook or reading the request raised."""
    _conclude(place, lambda: _describe(error, 0))


def _conclude(place: tuple[Any, ...], work: Callable[[], Answer]) -> NoReturn:
    code = 1
    try:
        kind, reply, code = work()
        if kind:
            _send(Place(*place), kind, reply)
    except KeyboardInterrupt:
        code = -signal.SIGINT
    except BaseException:
        sys.excepthook(*sys.exc_info())
    for last in hooks.last():
        last()
    end_process(code)


def _run(message: bytes, fds: tuple[int, ...]) -> Answer:
    try:
        fn, args, kwargs = _read_request(message, fds)
        value = fn(*args, **kwargs)
    except BaseException as error:
        return _describe(error, 1)
    return _pack(value)


def _read_request(message: bytes, fds: tuple[int, ...]) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    _, flags, _, notes, _ = wire.HEAD.unpack_from(message)
    start = wire.HEAD.size
    if notes:
        from clonal.clone.surroundings import set_up

        fds = set_up(message[start : start + notes], flags, fds)
    return wire.unpack(flags, message[start + notes :], fds)  # type: ignore[no-any-return]


def _pack(value: object) -> Answer:
    try:
        return wire.RESULT, pickling.pack_value(value), 0
    except ResultNotPicklable as error:
        return _describe(error, 2)
    except BaseException as error:
        return _describe(error, 1)


def _describe(error: BaseException, own_frames: int) -> Answer:
    """What an exception makes of the answer; without this module's frames in its traceback."""
    nothing: wire.Packed = (0, b"", ())
    if isinstance(error, SystemExit):
        return 0, nothing, exit_code(error)
    if isinstance(error, KeyboardInterrupt):
        return 0, nothing, -signal.SIGINT
    return wire.EXCEPTION, wire.pack(failure.pack_exception(error, own_frames)), 1


def exit_code(error: SystemExit) -> int:
    """The exit code that Python would give this process."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)
    return 1


def _send(place: Place, kind: int, reply: wire.Packed) -> None:
    flush_streams()  # what the clone printed is out before its result is
    for last in hooks.last():
        last()
    notes = b""
    if len(sys.modules) > place.modules:
        from clonal.clone.surroundings import describe_imports

        notes = describe_imports()
    _native.board_deliver(place.board, place.slot)
    try:
        wire.send(place.socket, kind, reply, notes, birth=wire.BIRTH.pack(os.getpid(), place.born))
    except ConnectionError:
        pass  # nobody waits for it any more
    if place.board:
        _native.learn_pages(place.board)
