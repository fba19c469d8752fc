"""Breaking one rule of a program and finding a test that notices: a mutation check without a tool."""

from __future__ import annotations
import __future__

import inspect
import itertools
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import pytest


class Mutant(NamedTuple):
    """In the source of `function` the words `old` become `new`: `rule` says what is then believed."""

    rule: str
    function: Any  # a function, or a property for its getter
    old: str
    new: str

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The function is the wrong one inside, for everybody who has it."""
        function = _plain(self.function)
        right = function.__code__
        function.__code__ = _recompiled(function, self.old, self.new)
        try:
            yield
        finally:
            function.__code__ = right


def _recompiled(function: FunctionType, old: str, new: str) -> Any:
    source = textwrap.dedent(inspect.getsource(function))
    if source.count(old) != 1:
        raise ValueError(f"{function.__qualname__} has {old!r} {source.count(old)} times, not once")
    flags = __future__.annotations.compiler_flag
    code = compile(source.replace(old, new), f"<{function.__qualname__}, broken>", "exec", flags)
    made: dict[str, Any] = {}
    exec(code, dict(function.__globals__), made)
    return _plain(made[function.__name__]).__code__


def _plain(function: Any) -> FunctionType:
    """Without its decorators."""
    found = inspect.unwrap(function.fget if isinstance(function, property) else function)
    assert isinstance(found, FunctionType)
    return found


class Case(NamedTuple):
    """A test with its arguments."""

    name: str
    test: Callable[..., None]
    given: dict[str, Any]
    module: ModuleType

    def fails(self) -> bool:
        """Whether it does."""
        known = dict(self.given)
        try:
            self.test(**{name: self._fixture(name, known) for name in _names(self.test)})
        except (Exception, pytest.fail.Exception):
            return True
        return False

    def _fixture(self, name: str, known: dict[str, Any]) -> Any:
        if name not in known:
            make = inspect.unwrap(getattr(self.module, name))
            known[name] = make(**{each: self._fixture(each, known) for each in _names(make)})
        return known[name]


def _names(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def cases(module: ModuleType) -> Iterator[Case]:
    """The tests of a module, once for each set of parameters; its fixtures must be functions that return."""
    for name, test in vars(module).items():
        if name.startswith("test_"):
            marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
            for given in itertools.product(*(_parameters(*mark.args) for mark in marks)):
                merged = {key: value for part in given for key, value in part.items()}
                yield Case(name, test, merged, module)


def _parameters(names: str | tuple[str, ...], values: Any) -> list[dict[str, Any]]:
    if isinstance(names, str):
        return [{names: value} for value in values]
    return [dict(zip(names, each, strict=True)) for each in values]
