"""A keeper in a process of its own: that of the clones of a template, which itself waits in C.

Not in the process that made the template: that may be forked, and wants no threads.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import clonal
from clonal.clone.launch import DEVNULL, launch
from clonal.observe.family import KEEPER
from clonal.observe.record.file import Writer
from clonal.observe.record.keeper import Keeper, listening, make_room

PACKAGE = str(Path(clonal.__file__).resolve().parent.parent)
PATIENCE = 5.0  # seconds that it may take to write out what is left
DYING = 1.0  # seconds from where a killed process has closed its descriptors to where it has ended
UNHEEDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)  # of the terminal, of a supervisor


class Keeping:
    """In the template. The keeper ends when it is told to, or when the template and all that were forked from
    it have ended, however they did: they hold the other end of what it reads. Raises OSError."""

    def __init__(self, path: str) -> None:
        taken, self.address = listening()
        orders, self._orders = os.pipe()
        try:
            self._process = launch(
                [sys.executable, "-S", "-P", "-m", __name__, str(taken.fileno()), path],
                env=os.environ | {"PYTHONPATH": PACKAGE}, stdin=orders, stdout=DEVNULL,
                pass_fds=[taken.fileno()],
            )  # fmt: skip
            os.write(self._orders, f"{self.address}\n".encode())  # where nobody else reads the secret
        except OSError:
            os.close(self._orders)
            raise
        finally:
            taken.close()
            os.close(orders)

    def close(self) -> None:
        """Has it write out what the killed have left."""
        with suppress(OSError):  # it has ended, as of a signal
            os.write(self._orders, b".")
        os.close(self._orders)
        try:
            self._process.wait(PATIENCE)
        except TimeoutError:
            self._process.kill()


def main(number: str, path: str) -> None:
    """The keeper."""
    Path("/proc/self/comm").write_text(KEEPER)
    for each in UNHEEDED:
        signal.signal(each, signal.SIG_IGN)
    make_room()
    address = sys.stdin.readline().strip()
    keeper = Keeper(Writer(path), (socket.socket(fileno=int(number)), address))
    told = sys.stdin.read(1)
    keeper.close(0 if told else DYING)


if __name__ == "__main__":
    main(*sys.argv[1:])
