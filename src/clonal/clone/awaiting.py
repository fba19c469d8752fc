"""Awaiting a clone in an asyncio event loop: no thread, only its socket in the loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

from clonal.clone import process

if TYPE_CHECKING:
    from clonal.clone.handle import Clone


class _LoopWaker:
    """Stands among the threads that wait, for a loop whose socket another thread reads."""

    def __init__(self, loop: asyncio.AbstractEventLoop, call: object) -> None:
        self._loop = loop
        self._call = call

    def release(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._call)  # type: ignore[arg-type]


async def wait_for(clone: Clone) -> None:
    """Returns when the clone has answered; cancelling this leaves the clone running."""
    loop = asyncio.get_running_loop()
    answered = loop.create_future()

    def look() -> None:
        try:
            done = clone.done()
        except BaseException as error:
            if not answered.done():
                answered.set_exception(error)
            return
        if done and not answered.done():
            answered.set_result(None)

    fds = [process.hold(os.dup(fd)) for fd in (clone._fd, clone._template.pidfd)]
    waker = _LoopWaker(loop, look)
    clone._waiting.append(waker)
    try:
        for fd in fds:
            loop.add_reader(fd, look)
        look()
        await answered
    finally:
        clone._waiting.remove(waker)
        for fd in fds:
            loop.remove_reader(fd)
            process.release(fd)
