"""What a clone does from its first line of Python to its end.

Every line here is run by every clone right after the fork, where each page written is copied: so
it is short, and what is needed only sometimes is looked up only then.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any, NoReturn

from clonal import _native
from clonal.clone import births, failure, hooks, pickling, wire
from clonal.clone.ending import end_process, flush_streams
from clonal.clone.standby import make_ready
from clonal.errors import ResultNotPicklable

ROUNDS = 20  # bytecode is specialised after a few
_wire = -1
_prepared = False


def _drop_wire() -> None:
    """A process forked by a clone must not hold the clone's socket: its client waits for the end."""
    global _wire
    if _wire >= 0:
        os.close(_wire)
        _wire = -1


def prepare_template() -> None:
    """Once, in the template, before the freeze."""
    global _prepared
    if not _prepared:
        os.register_at_fork(after_in_child=_drop_wire)
    _prepared = True


def rehearse() -> None:
    """Does in the template, on nothing, what every clone will do: then its bytecode is specialised
    and its attributes are in the type cache, and clones do not write to those pages."""
    for _ in range(ROUNDS):
        births.expect()
        births._after_fork()
        _drop_wire()
        reseed()
        ours, theirs = _native.wire_pair()
        wire.send(ours, wire.REQUEST, pickling.pack_call((len, ((),), {}), None))
        _serve_request(theirs, 0, 0, None, 0)
        wire.close_all((ours, theirs))
    births.expect()


def main(socket: int, is_standby: bool, board: int, slot: int, born: int) -> NoReturn:
    """The life of a clone."""
    global _wire
    _wire = socket
    code = 1
    try:
        begun = _begin()
        if is_standby:
            _wire = socket = _stand_by(socket)
            born = time.monotonic_ns()
        code = _serve_request(socket, board, slot, begun, born)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    end_process(code)


def _begin() -> BaseException | None:
    """Reseeds and runs the hooks; what they raise is the clone's result."""
    try:
        reseed()
        hooks.run_inside()
    except Exception as error:
        return error
    return None


def reseed() -> None:
    """Clones must not draw the same numbers. `random` sees to itself with register_at_fork."""
    if (numpy_random := sys.modules.get("numpy.random")) is not None:
        numpy_random.seed()
    if (torch := sys.modules.get("torch")) is not None:
        torch.default_generator.seed()


def _stand_by(socket: int) -> int:
    """Waits for work; returns its socket."""
    make_ready()
    _native.wire_send(socket, b"r", b"", ())
    _, fds = _native.wire_receive(socket)
    if not fds:
        os._exit(0)
    os.close(socket)
    return fds[0]


def _serve_request(socket: int, board: int, slot: int, begun: BaseException | None, born: int) -> int:
    message, fds = _native.wire_receive(socket)
    if not message:
        os._exit(0)  # the client was gone before we began
    modules = len(sys.modules)
    kind, reply, code = _run(message, fds, begun)
    if kind:
        _answer(socket, board, slot, kind, reply, modules, born)
    return code


def _run(message: bytes, fds: tuple[int, ...], begun: BaseException | None) -> tuple[int, wire.Packed, int]:
    """(kind of answer or 0, its payload, exit code)."""
    nothing: wire.Packed = (0, b"", ())
    try:
        if begun is not None:
            raise begun
        fn, args, kwargs = _read_request(message, fds)
        value = fn(*args, **kwargs)
        return wire.RESULT, pickling.pack_value(value), 0
    except SystemExit as error:
        return 0, nothing, exit_code(error)
    except KeyboardInterrupt:
        return 0, nothing, -signal.SIGINT
    except ResultNotPicklable as error:
        return wire.EXCEPTION, wire.pack(failure.pack_exception(error, 3)), 1
    except BaseException as error:
        return wire.EXCEPTION, wire.pack(failure.pack_exception(error, 1)), 1


def _read_request(message: bytes, fds: tuple[int, ...]) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    _, flags, _, notes, _ = wire.HEAD.unpack_from(message)
    start = wire.HEAD.size
    if notes:
        from clonal.clone.surroundings import set_up

        fds = set_up(message[start : start + notes], flags, fds)
    return wire.unpack(flags, message[start + notes :], fds)  # type: ignore[no-any-return]


def exit_code(error: SystemExit) -> int:
    """The exit code that Python would give this process."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)
    return 1


def _answer(
    socket: int, board: int, slot: int, kind: int, reply: wire.Packed, modules: int, born: int
) -> None:
    flush_streams()  # what the clone printed is out before its result is
    notes = b""
    if len(sys.modules) > modules:
        from clonal.clone.surroundings import describe_imports

        notes = describe_imports()
    _native.board_deliver(board, slot)
    try:
        wire.send(socket, kind, reply, notes, birth=wire.BIRTH.pack(os.getpid(), born))
    except ConnectionError:
        pass  # nobody waits for it any more
    _native.learn_pages(board)
