"""The least that a child can be asked."""

from __future__ import annotations


def nothing() -> None:
    """What the children of a burst and of a round trip do."""
