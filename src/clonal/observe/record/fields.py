"""What the JSON of each kind of chunk may hold: a recording is a file, and anything may stand in a file."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from clonal.observe.record.file import Kind

Test = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 64


def _status(value: Any) -> bool:
    """Of waitpid, as subprocess has it: negative for a signal."""
    return type(value) is int and abs(value) < 1 << 16


def _seconds(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _facts(value: Any) -> bool:
    return isinstance(value, dict)


def _machine(value: Any) -> bool:
    return _facts(value) and all(each is None or isinstance(each, str | int) for each in value.values()) and (
        value.get("memory") is None or _count(value["memory"])
    )  # fmt: skip


def _or_none(test: Test) -> Test:
    return lambda value: value is None or test(value)


def _all(test: Test) -> Test:
    return lambda value: isinstance(value, list) and all(map(test, value))


def _row(*tests: Test) -> Test:
    """A list of so many, each of its own kind."""
    return lambda value: (
        isinstance(value, list)
        and len(value) == len(tests)
        and all(test(each) for test, each in zip(tests, value, strict=True))
    )


def _each(test: Test) -> Test:
    return lambda value: isinstance(value, dict) and all(map(test, value.values()))


def _line(value: Any) -> bool:
    """As CPython has it: -1 where there is none."""
    return type(value) is int and abs(value) < 1 << 31


FIELDS: dict[Kind, dict[str, Test]] = {
    Kind.BEGIN: {
        "command": _all(_text), "machine": _machine, "backend": _text, "depth": _count, "wall": _seconds,
        "pids": _all(_count),
    },
    Kind.HOOKED: {"argv": _all(_text)},
    Kind.PROCESS: {
        "parent": _count, "generation": _count, "argv": _all(_text), "shared": _count, "own": _count,
        "time": _count, "failed": _or_none(_text), "spawned": _flag, "before": _count,
        "unwatched": _row(_count, _count),
    },
    Kind.FAULTS: {
        "stacks": _all(_all(_or_none(_row(_text, _text, _line)))), "types": _all(_text), "lost": _count,
        "symbols": _each(_or_none(_row(_or_none(_text), _or_none(_text)))), "maps": _or_none(_text),
        "fresh": _count, "after": _row(_count, _count, _count),
    },
    Kind.END: {
        "time": _count, "status": _status, "dropped": _count, "whole": _flag, "executes": _all(_text),
    },
}  # fmt: skip


def check(kind: Kind, data: Any) -> None:
    """Raises ValueError where one is not what it should be; what is missing, or is not known here, may be."""
    if not isinstance(data, dict):
        raise ValueError("not an object")
    for name, test in FIELDS[kind].items():
        if name in data and not test(data[name]):
            raise ValueError(f"{name}: {data[name]!r:.100}")
