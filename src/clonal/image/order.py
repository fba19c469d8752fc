"""In which order objects are finalised at exit: whoever uses another first, else the older first.

Reference counting finalises a holder before what it holds. A frozen process has no counts to go by, so
the holders are found by following references, for a few steps: far enough for a generator's variables
or an object's attributes, not so far as to reach everything through a module.
"""

from __future__ import annotations

import gc
import types
from collections.abc import Callable, Iterator, Sequence

_STEPS = 5
_MOST_VISITED = 500  # per object
_MOST_OBJECTS = 5000  # beyond, only `rank` orders them

_ENDS = (types.ModuleType, type, types.CodeType, types.BuiltinFunctionType)


def holders_first(objects: Sequence[object], rank: Callable[[object], int]) -> list[object]:
    """`objects`, oldest first, so sorted that holders precede what they hold, and lower ranks higher ones
    where neither holds the other.

    >>> inner = {"name": "inner"}
    >>> outer = {"name": "outer", "uses": [inner]}
    >>> [each["name"] for each in holders_first([inner, outer], lambda each: 0)]
    ['outer', 'inner']
    """
    ranked = sorted(objects, key=rank)
    if len(ranked) > _MOST_OBJECTS:
        return ranked
    known = {id(each): each for each in ranked}
    done: set[int] = set()
    backwards: list[object] = []
    for each in reversed(ranked):
        _visit(each, known, done, backwards)
    return backwards[::-1]


def _visit(start: object, known: dict[int, object], done: set[int], backwards: list[object]) -> None:
    """Append `start` after all that it holds; without recursion, for chains may be long."""
    if id(start) in done:
        return
    done.add(id(start))
    path = [(start, _held_by(start, known))]
    while path:
        holder, held = path[-1]
        for each in held:
            if id(each) not in done:
                done.add(id(each))
                path.append((each, _held_by(each, known)))
                break
        else:
            backwards.append(holder)
            path.pop()


def _held_by(holder: object, known: dict[int, object]) -> Iterator[object]:
    """Those of `known` that are a few references away; what they hold in turn is their own affair."""
    seen = {id(holder)}
    edge = [holder]
    for _ in range(_STEPS):
        found = [each for one in edge for each in _referents(one)]
        edge = []
        for each in found:
            if id(each) in seen or len(seen) > _MOST_VISITED:
                continue
            seen.add(id(each))
            if id(each) in known:
                yield each
            else:
                edge.append(each)


def _referents(one: object) -> list[object]:
    kind = type(one)
    if issubclass(kind, _ENDS):
        return []
    if kind is types.FunctionType:  # its globals lead everywhere
        function: types.FunctionType = one  # type: ignore[assignment]
        return [function.__closure__, function.__defaults__, function.__kwdefaults__]
    return gc.get_referents(one)
