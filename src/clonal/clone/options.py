"""What `t.options(…)` can set for the clones made through it."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass

from clonal.clone.wire import NOTES_MOST


@dataclass(frozen=True)
class Options:
    """`env` is laid over the template's environment, None removes a variable."""

    timeout: float | None = None
    env: Mapping[str, str | None] | None = None
    cwd: str | os.PathLike[str] | None = None
    capture: bool = False

    def notes(self) -> bytes:
        """What the clone has to know, for its request; empty when it is nothing."""
        if self.env is None and self.cwd is None and not self.capture:
            return b""
        env = None if self.env is None else dict(self.env)
        cwd = None if self.cwd is None else os.fspath(self.cwd)
        notes = pickle.dumps((env, cwd, self.capture), protocol=5)
        if len(notes) > NOTES_MOST:
            raise ValueError(f"options of {len(notes)} bytes: env is too large (at most {NOTES_MOST})")
        return notes


PLAIN = Options()


def apply_environment(env: Mapping[str, str | None] | None, cwd: str | None) -> None:
    """Lays `env` over this process's environment and changes to `cwd`."""
    for name, value in (env or {}).items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if cwd is not None:
        os.chdir(cwd)
