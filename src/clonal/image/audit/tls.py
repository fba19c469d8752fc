"""TLS: both ends count records, so a connection with two owners breaks at the first record."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from clonal.image.audit.hazard import Hazard, counted, listed
from clonal.image.audit.heap import ask, type_name
from clonal.image.audit.registry import Facts, check

CONNECTIONS = ("_ssl:_SSLSocket", "OpenSSL.SSL:Connection")
SESSION = "_ssl:SSLSession"
CONTEXT = "_ssl:_SSLContext"


@check(*CONNECTIONS)
def connections(facts: Facts) -> Iterator[Hazard]:
    """Established TLS connections, over sockets or memory."""
    live = [text for spec in CONNECTIONS for one in facts.heap.instances(spec) if (text := _established(one))]
    if live:
        yield Hazard(
            "tls-connection",
            "danger",
            listed(live),
            "close it before the freeze and connect in the clone: clones would use the same keys and "
            "record numbers, and the peer drops the connection",
        )


def _established(connection: Any) -> str:
    """The protocol it speaks; "" before the handshake or when it cannot be asked."""
    for question in ("version", "get_protocol_version_name"):
        if protocol := ask(lambda name: getattr(connection, name)(), question, default=None):
            return f"{type_name(connection)} ({protocol})"
    return ""


@check(SESSION, CONTEXT)
def sessions(facts: Facts) -> Iterator[Hazard]:
    """Saved sessions and contexts that did handshakes: clones resume the same sessions."""
    evidence = []
    if saved := facts.heap.instances(SESSION):
        evidence.append(counted(len(saved), "saved ssl.SSLSession"))
    used = sum(1 for one in facts.heap.instances(CONTEXT) if _handshakes(one))
    if used:
        evidence.append(f"{counted(used, 'ssl.SSLContext')} with handshakes")
    if evidence:
        yield Hazard(
            "tls-session",
            "note",
            listed(evidence),
            "harmless but linkable: clones resume the same sessions and share ticket keys; make the "
            "context in the clone if peers must not see that",
        )


def _handshakes(context: Any) -> int:
    stats = ask(lambda: context.session_stats(), default={})
    return int(stats.get("connect_good", 0)) + int(stats.get("accept_good", 0))
