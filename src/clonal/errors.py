"""Every exception Clonal raises, each with its data, each picklable.

>>> isinstance(CloneTimeout(pid=1, seconds=2.0), TimeoutError)
True
"""

from __future__ import annotations

import signal as _signal
from typing import Any


class Error(Exception):
    """Base of all errors of this package; carries its data as keyword attributes."""

    def __init__(self, message: str = "", **data: Any) -> None:
        super().__init__(message)
        self.message = message
        self.data = data

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["data"][name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.data)


def _rebuild(cls: type[Error], message: str, data: dict[str, Any]) -> Error:
    error = cls.__new__(cls)
    Error.__init__(error, message, **data)
    return error


class FreezeRefused(Error):
    """Freezing this process would lose writes; nothing was changed. `reasons` says what to do."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("freeze refused: " + "; ".join(reasons), reasons=reasons)


class SetupFailed(Error):
    """A preload or the setup raised in the template; the cause has the user's own traceback."""

    def __init__(self, what: str, traceback: str) -> None:
        super().__init__(f"{what} failed in the template", what=what, traceback=traceback)

    def __str__(self) -> str:
        return f"{self.message}\n\n{self.data['traceback']}"


class TemplateDied(Error):
    """The template process ended while it was needed; make a new Template."""

    def __init__(self, pid: int, status: int | None = None, hint: str = "") -> None:
        message = f"template {pid} {describe_status(status)}"
        super().__init__(message + (f": {hint}" if hint else ""), pid=pid, status=status)


class TemplateClosed(Error):
    """The template was closed before this call."""


class WrongProcess(Error):
    """A Template or Clone was used in a process forked after it was made; make one here."""

    def __init__(self, owner: int, here: int) -> None:
        super().__init__(
            f"this handle belongs to process {owner}, not {here}: "
            "make a Template in this process (Template.here())",
            owner=owner,
            here=here,
        )


class CloneDied(Error):
    """The clone ended without a result. `exitcode` or `signal` says how; `oom` if known."""

    def __init__(self, pid: int, status: int | None, oom: bool = False, hint: str = "") -> None:
        exitcode, signum = split_status(status)
        message = f"clone {pid} {describe_status(status)}"
        if oom:
            message += " (killed by the OOM killer of its memory cgroup)"
        super().__init__(
            message + (f": {hint}" if hint else ""),
            pid=pid,
            status=status,
            exitcode=exitcode,
            signal=signum,
            oom=oom,
        )


class CloneTimeout(Error, TimeoutError):
    """The clone's time was up. With the option `timeout` it was killed; `result()` only waits."""

    def __init__(self, pid: int, seconds: float, killed: bool = False) -> None:
        what = "killed after" if killed else "not done after"
        super().__init__(f"clone {pid} {what} {seconds:g} s", pid=pid, seconds=seconds, killed=killed)


class CloneRefused(Error):
    """A clone would exceed a limit, so none was made. `limit` names it, `need` and `have` are in
    `unit`."""

    def __init__(self, limit: str, need: int, have: int, unit: str = "bytes", hint: str = "") -> None:
        super().__init__(
            f"clone refused: {limit} needs {need} {unit}, has {have}" + (f"; {hint}" if hint else ""),
            limit=limit,
            need=need,
            have=have,
            unit=unit,
        )


class ResultNotPicklable(Error):
    """What the clone returned (or an argument sent to it) cannot be pickled."""


class RemoteTraceback(Exception):
    """Cause of an exception that came from another process; prints that process's traceback."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


class StaleCodeWarning(UserWarning):
    """A file that the template has loaded changed on disk since."""


def split_status(status: int | None) -> tuple[int | None, int | None]:
    """(exit code, signal number) of a wait status, each None where it does not apply."""
    if status is None:
        return None, None
    if status & 0x7F:
        return None, status & 0x7F
    return (status >> 8) & 0xFF, None


def describe_status(status: int | None) -> str:
    """In words how a process with this wait status ended."""
    exitcode, signum = split_status(status)
    if signum is not None:
        try:
            name = _signal.Signals(signum).name
        except ValueError:
            name = f"signal {signum}"
        return f"was killed by {name}"
    if exitcode is None:
        return "ended, its exit status is not known"
    return f"exited with status {exitcode}"
