"""Functions that run around cloning: `@before_clone` in the template, `@in_clone` in each clone.

Register them while the template warms up (in a preloaded module or in the setup).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Hook = TypeVar("Hook", bound=Callable[[], Any])

_before: list[Callable[[], Any]] = []
_inside: list[Callable[[], Any]] = []
_last: list[Callable[[], Any]] = []


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


def before_answer(hook: Callable[[], Any]) -> None:
    """Runs `hook` last in every clone: before its answer is sent, and before it ends without one."""
    _last.append(hook)


def last() -> tuple[Callable[[], Any], ...]:
    """The `before_answer` hooks, in order of registration. Each may be called more than once."""
    return tuple(_last)


def inside() -> tuple[Callable[[], Any], ...]:
    """The `in_clone` hooks, in order of registration."""
    return tuple(_inside)
