"""Functions that run around cloning: `@before_clone` in the template, `@in_clone` in each clone.

Register them while the template warms up (in a preloaded module or in the setup).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Hook = TypeVar("Hook", bound=Callable[[], Any])

_before: list[Callable[[], Any]] = []
_inside: list[Callable[[], Any]] = []


def before_clone(hook: Hook) -> Hook:
    """Run `hook` once, after warm-up and just before the freeze: the last moment to close
    connections and stop threads that no clone could use."""
    _before.append(hook)
    return hook


def in_clone(hook: Hook) -> Hook:
    """Run `hook` first in every clone: the moment to open connections of its own."""
    _inside.append(hook)
    return hook


def run_before() -> None:
    """Runs the `before_clone` hooks, in order of registration, each once."""
    while _before:
        _before.pop(0)()


def inside() -> tuple[Callable[[], Any], ...]:
    """The `in_clone` hooks, in order of registration."""
    return tuple(_inside)
