"""What travels by name and what by value.

Plain pickle names functions and classes, which is what makes a clone see the objects that the
template's setup built. cloudpickle copies code and the globals it reads, so it is used only for
what has no name on the other side: lambdas, closures, and everything typed at a prompt.
"""

from __future__ import annotations

import io
import pickle
import sys
import types
from typing import Any

from clonal.clone import wire
from clonal.errors import ResultNotPicklable

_UNPICKLABLE = (pickle.PicklingError, AttributeError, TypeError, ValueError, BufferError, RecursionError)


class ByValue:
    """Pickles everything of `__main__` by value, since the template has not got this `__main__`;
    except functions and classes that it has: those of a process it was forked from, unchanged."""

    def __init__(self, shared: dict[int, tuple[str, object]]) -> None:
        self.shared = shared  # by id: (name, the object itself, so that its id stays its own)

    @classmethod
    def fresh(cls) -> ByValue:
        """For a template that shares nothing."""
        return cls({})

    @classmethod
    def forked(cls) -> ByValue:
        """For a template that is a fork of this process as it is now."""
        main = vars(sys.modules["__main__"])
        named = (
            (name, value)
            for name, value in main.items()
            if isinstance(value, (type, types.FunctionType))
            and value.__module__ == "__main__"
            and value.__qualname__ == name
        )
        return cls({id(value): (name, value) for name, value in named})

    def plain(self, value: object, **how: Any) -> bytes | None:
        """As of pickle, a quarter of the time; None if something of `__main__` may be in it."""
        try:
            data = pickle.dumps(value, **how)
        except _UNPICKLABLE:
            return None
        return None if b"__main__" in data else data

    def dumps(self, value: object, **how: Any) -> bytes:
        """As of cloudpickle."""
        import cloudpickle

        shared, main = self.shared, vars(sys.modules["__main__"])

        class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
            def reducer_override(self, obj: object) -> Any:
                name, known = shared.get(id(obj), ("", None))
                if known is obj and main.get(name) is obj:
                    return name
                return super().reducer_override(obj)

        file = io.BytesIO()
        Pickler(file, **how).dump(value)
        return file.getvalue()


def pack_call(call: tuple[Any, ...], by_value: ByValue | None) -> wire.Packed:
    """Packs what a clone is to run: by name where possible, unless there is a rule for by value."""
    if by_value is None:
        try:
            return wire.pack(call)
        except _UNPICKLABLE:
            pass  # a lambda or closure somewhere in it
    ways = (by_value.plain, by_value.dumps) if by_value is not None else (_cloudpickle_dumps(),)
    try:
        return wire.pack(call, *ways)
    except _UNPICKLABLE as error:
        raise ResultNotPicklable(f"what the clone is to run cannot be pickled: {error}") from error


def pack_value(value: object) -> wire.Packed:
    """Packs a result. ResultNotPicklable says what it was."""
    try:
        return wire.pack(value)
    except _UNPICKLABLE as error:
        try:
            if "cloudpickle" not in sys.modules:
                raise
            return wire.pack(value, _cloudpickle_dumps())
        except _UNPICKLABLE:
            raise ResultNotPicklable(
                f"a {type(value).__qualname__} cannot be pickled ({error}): {short_repr(value)}"
            ) from None


def _cloudpickle_dumps() -> wire.Dumps:
    import cloudpickle

    dumps: wire.Dumps = cloudpickle.dumps
    return dumps


def short_repr(value: object, most: int = 200) -> str:
    """repr that neither raises nor grows without bound."""
    try:
        text = repr(value)
    except Exception as error:
        text = f"<{type(value).__qualname__}, whose repr raises {type(error).__name__}>"
    return text if len(text) <= most else text[: most - 1] + "…"
