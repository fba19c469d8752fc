"""Two FIFOs at which a child waits to be looked at, whoever its parent is."""

from __future__ import annotations

import os


class Gate:
    def __init__(self, folder: str) -> None:
        self._ready = _fifo(folder + "/ready")
        self._go = _fifo(folder + "/go")

    def arrived(self, timeout: float) -> int | None:
        """The pid of the child that waits at the gate; None if none came in time."""
        import select

        if not select.select([self._ready], [], [], timeout)[0]:
            return None
        return int(os.read(self._ready, 32))

    def open(self) -> None:
        os.write(self._go, b"g")

    def close(self) -> None:
        os.close(self._ready)
        os.close(self._go)


def _fifo(path: str) -> int:
    os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def wait_at_gate(folder: str) -> None:
    """In the child: says it has arrived and waits until it may go on."""
    ready = os.open(folder + "/ready", os.O_WRONLY)
    os.write(ready, b"%d" % os.getpid())
    os.close(ready)
    go = os.open(folder + "/go", os.O_RDONLY)
    os.read(go, 1)
    os.close(go)
