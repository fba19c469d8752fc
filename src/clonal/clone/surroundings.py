"""The rarer parts of a clone's work: its own environment, captured output, what it imported."""

from __future__ import annotations

import os
import pickle
import sys
from typing import TextIO

from clonal.clone import imports, wire
from clonal.clone.options import apply_environment


def set_up(notes: bytes, flags: int, fds: tuple[int, ...]) -> tuple[int, ...]:
    """Applies the options of a request; returns the descriptors of its payload."""
    env, cwd, capture = pickle.loads(notes)
    payload = wire.payload_fds(flags)
    if capture:
        _redirect(fds[payload], fds[payload + 1])
    apply_environment(env, cwd)
    return fds[:payload]


def _redirect(out: int, err: int) -> None:
    """stdout and stderr, of Python and of C code, into memfds: nobody has to read them meanwhile."""
    for stream, memfd, number in ((sys.stdout, out, 1), (sys.stderr, err, 2)):
        if stream is not None:
            stream.flush()
        os.dup2(memfd, number, inheritable=True)
        os.close(memfd)
    sys.stdout, sys.stderr = _line_buffered(1), _line_buffered(2)


def _line_buffered(fd: int) -> TextIO:
    """Lines are out as soon as they are complete: a clone that is killed loses none."""
    return open(fd, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)


def describe_imports() -> bytes:
    """The modules this clone imported itself, for `t.stats()`; at most what fits into notes."""
    return pickle.dumps([tuple(one) for one in imports.collected()[:200]], protocol=5)
