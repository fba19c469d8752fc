"""What travels by name and what by value.

Plain pickle names functions and classes, which is what makes a clone see the objects that the
template's setup built. cloudpickle copies code and the globals it reads, so it is used only for
what has no name on the other side: lambdas, closures, and everything typed at a prompt.
"""

from __future__ import annotations

import pickle
import sys
from typing import Any

from clonal.clone import wire
from clonal.errors import ResultNotPicklable

_UNPICKLABLE = (pickle.PicklingError, AttributeError, TypeError, ValueError, BufferError, RecursionError)


def pack_call(call: tuple[Any, ...], by_value: bool) -> wire.Packed:
    """Packs what a clone is to run. `by_value`: the template has not got this `__main__`."""
    if not by_value:
        try:
            return wire.pack(call)
        except _UNPICKLABLE:
            pass  # a lambda or closure somewhere in it
    try:
        return wire.pack(call, _cloudpickle_dumps())
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
