"""The standard streams of a program that is launched: which descriptors it gets, which we keep."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import IO, Any, Self

PIPE, STDOUT, DEVNULL = -1, -2, -3  # as in subprocess

Spec = int | IO[Any] | None
Ours = tuple[IO[bytes] | None, IO[bytes] | None, IO[bytes] | None]


class Streams:
    """Resolves stdin, stdout, stderr; a context in which `theirs` are open.

    `theirs`: three descriptors for the child, -1 to inherit. `ours`: our ends of pipes, which are
    closed too when the context ends without `release()`.
    """

    def __init__(self, stdin: Spec, stdout: Spec, stderr: Spec) -> None:
        self._opened: list[int] = []  # owned: the child's ends, and /dev/null
        self._pipes: list[IO[bytes]] = []
        try:
            self.theirs, self.ours = self._resolve(stdin, stdout, stderr)
        except BaseException:
            self.__exit__(None)
            raise

    def _resolve(self, stdin: Spec, stdout: Spec, stderr: Spec) -> tuple[tuple[int, int, int], Ours]:
        fd0, our0 = self._one(stdin, writing=True)
        fd1, our1 = self._one(stdout, writing=False)
        if stderr == STDOUT:
            return (fd0, fd1, 1 if fd1 == -1 else fd1), (our0, our1, None)
        fd2, our2 = self._one(stderr, writing=False)
        return (fd0, fd1, fd2), (our0, our1, our2)

    def _one(self, spec: Spec, *, writing: bool) -> tuple[int, IO[bytes] | None]:
        """The child's descriptor and our end, `writing` if it is we who write."""
        if spec is None:
            return -1, None
        if not isinstance(spec, int):
            return spec.fileno(), None
        if spec == PIPE:
            return self._pipe(writing)
        if spec == DEVNULL:
            self._opened.append(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
            return self._opened[-1], None
        if spec < 0:
            raise ValueError(f"{spec} is no descriptor; STDOUT is for stderr only")
        return spec, None

    def _pipe(self, writing: bool) -> tuple[int, IO[bytes]]:
        read, write = os.pipe()
        theirs, ours = (read, write) if writing else (write, read)
        self._opened.append(theirs)
        self._pipes.append(os.fdopen(ours, "wb" if writing else "rb"))
        return theirs, self._pipes[-1]

    def release(self) -> Streams:
        """The child has started: our ends are the caller's now."""
        self._pipes = []
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for fd in self._opened:
            os.close(fd)
        for pipe in self._pipes:
            with suppress(OSError):
                pipe.close()
        self._opened, self._pipes = [], []
