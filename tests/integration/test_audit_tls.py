"""TLS over memory: no certificate and no network, an anonymous handshake."""

from __future__ import annotations

from tests.audit import audit_of, named

SETUP = """
import ssl

def context(side):
    made = ssl.SSLContext(side)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.maximum_version = ssl.TLSVersion.TLSv1_2
    made.set_ciphers("aNULL:@SECLEVEL=0")
    return made

one, two = ssl.MemoryBIO(), ssl.MemoryBIO()
near, far = context(ssl.PROTOCOL_TLS_CLIENT), context(ssl.PROTOCOL_TLS_SERVER)
client = near.wrap_bio(one, two)
server = far.wrap_bio(two, one, server_side=True)
"""
HANDSHAKE = """
done_sides = set()
while len(done_sides) < 2:
    for side in (client, server):
        try:
            side.do_handshake()
            done_sides.add(side)
        except ssl.SSLWantReadError:
            pass
"""


def test_an_established_tls_connection_is_flagged() -> None:
    (hazard,) = named(audit_of(SETUP + HANDSHAKE), "tls-connection")
    assert hazard["severity"] == "danger"
    assert "TLSv1.2" in hazard["evidence"]


def test_contexts_and_connections_before_the_handshake_are_not_flagged() -> None:
    found = audit_of(SETUP + "default = ssl.create_default_context()")
    assert not named(found, "tls-connection") + named(found, "tls-session")


def test_a_context_that_did_a_handshake_is_noted_when_its_connections_are_gone() -> None:
    found = audit_of(SETUP + HANDSHAKE + "del client, server, side, done_sides")
    (hazard,) = named(found, "tls-session")
    assert hazard["severity"] == "note"
    assert "2 ssl.SSLContexts with handshakes" in hazard["evidence"]
    assert not named(found, "tls-connection")
