"""Exceptions on their way between processes: the object where it pickles, always its traceback."""

from __future__ import annotations

import pickle
import traceback
from typing import NamedTuple

from clonal.clone.pickling import short_repr
from clonal.errors import RemoteTraceback, ResultNotPicklable


class Failure(NamedTuple):
    """An exception as it travels: `pickled` is None where it cannot be pickled."""

    pickled: bytes | None
    described: str
    text: str


def pack_exception(error: BaseException, skip_frames: int = 0) -> Failure:
    """An exception for the wire, without this package's own `skip_frames` outermost frames."""
    for _ in range(skip_frames):
        if error.__traceback__ is not None:
            error.__traceback__ = error.__traceback__.tb_next
    text = "".join(traceback.format_exception(error))
    try:
        pickled: bytes | None = pickle.dumps(error, protocol=5)
    except Exception:
        pickled = None
    return Failure(pickled, f"{type(error).__qualname__}: {short_repr(error)}", text)


def unpack_exception(failure: Failure) -> BaseException:
    """The exception again, with the remote traceback as its cause."""
    error: BaseException | None = None
    try:
        error = pickle.loads(failure.pickled) if failure.pickled is not None else None
    except Exception:
        error = None  # its class has a constructor that its arguments do not fit
    if not isinstance(error, BaseException):
        error = ResultNotPicklable(f"the clone raised an exception that cannot travel: {failure.described}")
    error.__cause__ = RemoteTraceback(failure.text)
    return error
