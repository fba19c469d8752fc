"""How the template gets the caller's `__main__`: by the rule of multiprocessing's spawn.

A script is run again under the name `__mp_main__` (so `if __name__ == "__main__"` keeps it from
starting over), and the result stands in for `__main__`, so that its functions travel by name.
"""

from __future__ import annotations

import os
import runpy
import sys
import types
from typing import Literal

Main = tuple[Literal["name", "path"], str]

_importing = False


def describe(start_dir: str) -> Main | None:
    """How another process finds this one's `__main__`; None when it cannot (a prompt, `-c`)."""
    module = sys.modules.get("__main__")
    name = getattr(getattr(module, "__spec__", None), "name", None)
    if name is not None:
        return None if name == "__main__" or name.endswith(".__main__") else ("name", name)
    path = getattr(module, "__file__", None)
    if path is None or is_interactive() or path.startswith("<"):
        return None
    path = os.path.join(start_dir, path)
    return ("path", os.path.abspath(path)) if os.path.isfile(path) else None


def is_interactive() -> bool:
    """Whether `__main__` grows line by line, so that no file defines it."""
    return hasattr(sys, "ps1") or ("IPython" in sys.modules and _has_ipython_shell())


def _has_ipython_shell() -> bool:
    get = getattr(sys.modules["IPython"], "get_ipython", None)
    return get is not None and get() is not None


def alias_here() -> None:
    """Makes results that name `__mp_main__` mean this process's own `__main__`."""
    sys.modules.setdefault("__mp_main__", sys.modules["__main__"])


def adopt(main: Main | None) -> None:
    """Runs the caller's `__main__` as `__mp_main__` and puts it in the place of `__main__`."""
    global _importing
    if main is None:
        return
    kind, where = main
    _importing = True
    try:
        module = types.ModuleType("__mp_main__")
        sys.modules["__mp_main__"] = module  # pickling inside the script itself may need it
        if kind == "name":
            content = runpy.run_module(where, run_name="__mp_main__", alter_sys=True)
        else:
            content = runpy.run_path(where, run_name="__mp_main__")
        module.__dict__.update(content)
        sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    finally:
        _importing = False


def refuse_while_importing() -> None:
    """A script that makes its Template outside the `__main__` guard would do so for ever."""
    if _importing:
        raise RuntimeError(
            "this script makes a Template while it is itself being imported by one; "
            'put that code under: if __name__ == "__main__":'
        )
