"""Holds the ring of every recorded process, and writes out what is left in those of the killed.

A process that is killed, as multiprocessing ends the workers of a pool, writes out nothing more. But its ring
is a memory file that it has handed to the recorder (_native/trap_keep.c), with all names in it.
"""

from __future__ import annotations

import contextlib
import os
import resource
import secrets
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterator

from clonal import _native
from clonal.kernel import procfs
from clonal.observe.record import file
from clonal.observe.record.file import Kind, Writer

MESSAGE = struct.Struct("=32sq")  # secret, pid as the process itself knows it
CREDENTIALS = struct.Struct("=iii")  # pid as it is known here, uid, gid: struct ucred


def listening() -> tuple[socket.socket, str]:
    """A socket that rings can be sent to, and its address with a secret: "name:secret"."""
    name = f"clonal-record-{os.getpid()}-{secrets.token_hex(4)}"
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    made.setblocking(False)
    made.bind(b"\0" + name.encode())
    return made, f"{name}:{secrets.token_hex(16)}"


def make_room() -> None:
    """This process may have as many descriptors as it is allowed: a keeper has two for each process."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Keeper:
    """Listens from its making to `close`, in a thread of its own. `address` is for hook.KEEPER."""

    def __init__(self, writer: Writer, listens: tuple[socket.socket, str] | None = None) -> None:
        self._writer = writer
        self._socket, self.address = listens or listening()
        self._secret = self.address.partition(":")[2]
        self._patience = 0.0
        self._ended, self._end = os.pipe()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ)
        self._selector.register(self._ended, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="clonal-keeper", daemon=True)
        self._thread.start()

    def close(self, patience: float = 0.0) -> None:
        """Takes what has been sent, writes out what the killed have left, and lets go of the others, after so
        many seconds in which they may end."""
        if self._thread.is_alive():
            self._patience = patience
            os.close(self._end)
            self._thread.join()

    def _serve(self) -> None:
        listening = True
        while listening:
            for key, _ in self._selector.select():
                if key.fileobj is self._socket:
                    self._take_all()
                elif key.fileobj == self._ended:
                    listening = False
                else:
                    self._salvage(key)
        self._take_all()
        self._selector.unregister(self._socket)
        self._selector.unregister(self._ended)
        until = time.monotonic() + self._patience
        while self._selector.get_map() and (ended := self._selector.select(until - time.monotonic())):
            for key, _ in ended:
                self._salvage(key)
        self._let_go()

    def _let_go(self) -> None:
        for key in list(self._selector.get_map().values()):
            os.close(key.fd)
            os.close(key.data[1])
        self._selector.close()
        self._socket.close()
        os.close(self._ended)

    def _take_all(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self._take(*self._socket.recvmsg(MESSAGE.size, socket.CMSG_SPACE(4) + socket.CMSG_SPACE(12)))

    def _take(self, text: bytes, controls: list[tuple[int, int, bytes]], *_: object) -> None:
        """Keeps a ring, if who sends it knows the secret."""
        rings = list(_descriptors(controls))
        known = len(text) == MESSAGE.size and secrets.compare_digest(text[:32], self._secret.encode())
        sender = _sender(controls)
        if not known or sender is None or len(rings) != 1:
            for fd in rings:
                os.close(fd)
            return
        pid = MESSAGE.unpack(text)[1]
        try:
            self._selector.register(os.pidfd_open(sender), selectors.EVENT_READ, (pid, rings[0]))
        except OSError:  # it has ended, or there are no descriptors left
            self._write_rest(pid, rings[0])

    def _salvage(self, key: selectors.SelectorKey) -> None:
        self._selector.unregister(key.fileobj)
        os.close(key.fd)
        self._write_rest(*key.data)

    def _write_rest(self, pid: int, ring: int) -> None:
        with contextlib.suppress(OSError, ValueError), os.fdopen(ring, "rb", buffering=0):
            found, maps = _native.trap_salvage(ring)
            records = found[0]
            if records or found[3]:
                text = maps.decode("utf-8", "replace")
                facts = file.faults(found) | {"symbols": dict(_symbols(records, maps)), "maps": text}
                self._writer.write(Kind.FAULTS, facts, records, pid)


def _descriptors(controls: list[tuple[int, int, bytes]]) -> Iterator[int]:
    for level, kind, data in controls:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            yield from (number for (number,) in struct.iter_unpack("=i", data[: len(data) // 4 * 4]))


def _sender(controls: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in controls:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            return int(CREDENTIALS.unpack(data)[0])
    return None


def _symbols(records: bytes, maps: bytes) -> Iterator[tuple[str, tuple[str | None, str | None] | None]]:
    """As hook.Recorder writes them: of libraries that are loaded here too, for the process is no more."""
    theirs, ours = procfs.parse_maps(maps), procfs.maps(os.getpid())
    loaded = {(vma.path, vma.offset): vma for vma in ours if "x" in vma.perms}
    for address in set(memoryview(records).cast("Q")[2::5].tolist()) - {0}:
        vma = next((vma for vma in theirs if vma.start <= address < vma.end), None)
        here = loaded.get((vma.path, vma.offset)) if vma else None
        if vma is not None:
            found = _native.trap_symbol(address - vma.start + here.start) if here else None
            yield f"{address:x}", found or (vma.path or None, None)
