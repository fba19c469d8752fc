"""Environment captured at import: a clone with an environment of its own would not see it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

from clonal.image.audit.hazard import Hazard, listed
from clonal.image.audit.heap import namespace
from clonal.image.audit.registry import Facts, check

SNAPSHOT = 3  # so many entries, all equal to the environment's, are a copy of it and no accident
TELLING = 2  # a shorter value ("1", "") says little about where it came from
OWNERS = ("os", "posix", "posixpath", "clonal")


@check()
def captured_environment(_facts: Facts) -> Iterator[Hazard]:
    """Module globals that hold what the environment held: a copy of it, or a variable by its name.

    Names only are shown: values of environment variables are often secrets.
    """
    environ = dict(os.environ)
    found = [f"{module}.{name}" for module, values in _modules() for name in captured(values, environ)]
    if found:
        yield Hazard(
            "environment-captured",
            "note",
            listed(found),
            "read os.environ when it is used: env= of a clone does not change what a module read at import",
        )


def _modules() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in OWNERS:
            yield name, namespace(module)


def captured(values: dict[str, Any], environ: dict[str, str]) -> list[str]:
    """The names in a module's globals whose values were taken from the environment."""
    same = [name for name in environ.keys() & values.keys() if _same(values[name], environ[name])]
    copies = [name for name, value in list(values.items()) if type(value) is dict and is_copy(value, environ)]
    return sorted(same) + copies


def _same(value: object, variable: str) -> bool:
    return type(value) is str and len(variable) >= TELLING and value == variable


def is_copy(value: dict[Any, Any], environ: dict[str, str]) -> bool:
    """All its entries are the environment's, and there are enough of them to be sure."""
    if not SNAPSHOT <= len(value) <= len(environ):
        return False
    return all(
        type(key) is str and type(held) is str and environ.get(key) == held
        for key, held in list(value.items())
    )


@check()
def captured_locale(_facts: Facts) -> Iterator[Hazard]:
    """A C locale set from the environment. LC_CTYPE is set by every interpreter and says nothing."""
    locale = namespace(sys.modules.get("_locale"))
    setlocale = locale.get("setlocale")
    if not callable(setlocale):
        return
    names = ("LC_COLLATE", "LC_MONETARY", "LC_NUMERIC", "LC_TIME")
    current = {name: setlocale(locale[name]) for name in names if name in locale}
    changed = [f"{name}={value}" for name, value in current.items() if value not in ("C", "POSIX")]
    if changed:
        yield Hazard(
            "locale-captured",
            "note",
            listed(changed),
            "call locale.setlocale in the clone if it has LANG or LC_* of its own",
        )
