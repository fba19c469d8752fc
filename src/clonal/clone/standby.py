"""Standby clones: forked before they are needed, their always-written pages already copied."""

from __future__ import annotations

from clonal.clone import pickling, wire


def make_ready() -> None:
    """Runs the clone's own path on nothing, so that the pages it writes are already copied."""
    for _ in range(2):
        call = wire.pack((len, ((),), {}))
        fn, args, kwargs = wire.unpack(*call)
        pickling.pack_value(fn(*args, **kwargs))
        wire.HEAD.unpack_from(wire.head(wire.RESULT))
