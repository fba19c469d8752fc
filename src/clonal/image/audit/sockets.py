"""Sockets and pipes: one connection with two owners, or one that never ends."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass

from clonal.image.audit.descriptors import STANDARD, Descriptor
from clonal.image.audit.hazard import Hazard, listed
from clonal.image.audit.loops import loop_descriptors
from clonal.image.audit.registry import Facts, check
from clonal.image.audit.sharing import tracker_descriptors
from clonal.image.audit.tasks import read

LISTENING = "0A"  # TCP_LISTEN
UNCONNECTED = "07"  # TCP_CLOSE: a fresh TCP socket, or UDP without a peer
UNIX_ACCEPTS = 1 << 16  # __SO_ACCEPTCON
UNIX_CONNECTED = "03"


@dataclass(frozen=True)
class Socket:
    kind: str
    local: str
    peer: str
    listening: bool

    @property
    def bound(self) -> bool:
        return bool(self.local) and not self.local.endswith(":0")

    def __str__(self) -> str:
        return f"{self.kind} {self.local or '(unnamed)'}" + (f" to {self.peer}" if self.peer else "")


@check("asyncio.events:AbstractEventLoop")
def sockets(facts: Facts) -> Iterator[Hazard]:
    """Connected sockets, and those that wait for peers."""
    own = loop_descriptors(facts)
    held = [one for one in facts.descriptors if stat.S_ISSOCK(one.mode) and one.fd not in (*STANDARD, *own)]
    if not held:
        return
    table = socket_table()
    known = [(one, table.get(one.target)) for one in held]
    connected = [f"fd {one.fd} {socket}" for one, socket in known if socket and socket.peer]
    waiting = [f"fd {one.fd} {socket}" for one, socket in known if socket and _waits(socket)]
    if connected:
        yield Hazard(
            "socket-connected",
            "danger",
            listed(connected),
            "close it before the freeze and connect in the clone: bytes of several clones would mix in "
            "one stream, and the peer sees no end while any of them holds it",
        )
    if waiting:
        yield Hazard(
            "socket-listening",
            "warning",
            listed(waiting),
            "right for a pre-fork server; else close it before the freeze: any clone may take the "
            "peer's request, and the address stays in use while a clone lives",
        )


def _waits(socket: Socket) -> bool:
    return socket.listening or (socket.bound and not socket.peer)


def socket_table() -> dict[str, Socket]:
    """The sockets of this network namespace by "socket:[inode]"."""
    found: dict[str, Socket] = {}
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        for line in read(f"net/{kind}").splitlines()[1:]:
            field = line.split()
            socket = _internet(kind, local=field[1], peer=field[2], state=field[3])
            found[f"socket:[{field[9]}]"] = socket
    for line in read("net/unix").splitlines()[1:]:
        field = line.split(None, 7)
        path = field[7] if len(field) > 7 else ""
        peer = "a unix peer" if field[5] == UNIX_CONNECTED else ""
        found[f"socket:[{field[6]}]"] = Socket("unix", path, peer, bool(int(field[3], 16) & UNIX_ACCEPTS))
    return found


def _internet(kind: str, local: str, peer: str, state: str) -> Socket:
    connected = int(peer.partition(":")[2], 16) != 0
    listening = state == LISTENING and kind.startswith("tcp")
    return Socket(kind.rstrip("6"), address(local), address(peer) if connected else "", listening)


def address(text: str) -> str:
    """ "0100007F:1F90" as "127.0.0.1:8080": the kernel prints 32-bit words in host order."""
    host, _, port = text.partition(":")
    words = [bytes.fromhex(host[at : at + 8])[::-1] for at in range(0, len(host), 8)]
    raw = b"".join(words)
    number = int(port, 16)
    if len(raw) == 4:
        return f"{'.'.join(map(str, raw))}:{number}"
    groups = ":".join(f"{raw[at] << 8 | raw[at + 1]:x}" for at in range(0, 16, 2))
    return f"[{groups}]:{number}"


@check("asyncio.events:AbstractEventLoop")
def pipes(facts: Facts) -> Iterator[Hazard]:
    """Pipes: no reader sees the end of one while any clone holds its writing end."""
    trackers = tracker_descriptors()
    held = [one for one in facts.descriptors if stat.S_ISFIFO(one.mode) and one.fd not in STANDARD]
    ends = [_pipe_end(one) for one in held if one.fd not in trackers]
    if ends:
        yield Hazard(
            "pipe",
            "warning",
            listed(ends),
            "close it before the freeze, or in the clone: a reader sees no end of file while any clone "
            "holds a writing end, and two readers take each other's bytes",
        )


def _pipe_end(one: Descriptor) -> str:
    return f"fd {one.fd} {'writes to' if one.writable else 'reads from'} {one.target}"


@check("asyncio.events:AbstractEventLoop")
def watchers(facts: Facts) -> Iterator[Hazard]:
    """epoll and inotify instances that watch something: their interest lists are shared."""
    own = loop_descriptors(facts)
    watched = [
        f"fd {one.fd} {one.target} watches {count}"
        for one in facts.descriptors
        if one.fd not in own and (count := one.info.count("\ntfd:") + one.info.count("\ninotify "))
    ]
    if watched:
        yield Hazard(
            "epoll",
            "warning",
            listed(watched),
            "close it before the freeze and make one in the clone: what a clone adds or removes, all "
            "processes that share it see",
        )
