"""A gate at which runs wait at their end, alive, until they have been measured from outside.

Reading one's own memory map makes objects, which for a clone is much of what there is to measure.
So a run connects to the gate (`job.wait_at`) and waits; who owns the gate knows by the socket which
process that is, reads /proc about it, and lets it go on by closing the connection. The socket's name
is abstract: there is no file to leave behind, and processes of other users are turned away.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from types import TracebackType

from clonal.kernel import procfs

_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid


class Gate:
    """The owner's side: `arrive()` returns the pid of the next run that waits."""

    def __init__(self) -> None:
        self.name = f"clonal-gate-{secrets.token_hex(12)}"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind("\0" + self.name)
        self._listener.listen(128)
        self._waiting: dict[int, socket.socket] = {}

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:  # fmt: skip
        self.close()

    def arrive(self, timeout: float | None = None) -> int:
        """Wait for the next run; TimeoutError after `timeout` seconds."""
        self._listener.settimeout(timeout)
        while True:
            connection, _ = self._listener.accept()
            raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
            pid, uid, _ = _PEER.unpack(raw)
            if uid == os.geteuid():
                self._waiting[pid] = connection
                return int(pid)
            connection.close()

    def release(self, pids: Iterable[int] | None = None) -> None:
        """Let these runs go on (all by default)."""
        for pid in list(self._waiting) if pids is None else pids:
            if (connection := self._waiting.pop(pid, None)) is not None:  # another thread may have let it go
                connection.close()

    def close(self) -> None:
        """Let all go on, now and later."""
        try:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes a thread in accept()
        except OSError:
            pass
        self._listener.close()
        self.release()


class Meter:
    """A gate with a thread that measures each run's private memory and lets it go on."""

    def __init__(self, measure: Callable[[int], int] = procfs.private_bytes) -> None:
        self.found: list[int] = []
        self._measure = measure
        self._gate = Gate()
        self.name = self._gate.name
        self._thread = threading.Thread(target=self._serve, name="clonal-meter", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                pid = self._gate.arrive()
            except OSError:
                return
            try:
                self.found.append(self._measure(pid))
            except OSError:  # killed meanwhile
                pass
            self._gate.release([pid])

    def close(self) -> None:
        """Stop measuring; runs that arrive later pass."""
        self._gate.close()
        self._thread.join()
