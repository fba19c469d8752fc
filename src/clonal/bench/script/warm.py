"""Warm a process as a template is warmed: preloads, then the setup.

Imported as a module it warms the importing process by what CLONAL_WARM says: the only hook that
multiprocessing's forkserver has is a list of modules to import.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

VARIABLE = "CLONAL_WARM"


def warm(preload: Iterable[str], setup: str | None) -> Any:
    """Import the modules, call the setup, return what it returned."""
    for name in preload:
        importlib.import_module(name)
    if setup is None:
        return None
    where, _, function = setup.rpartition(":")
    module = load_file(where) if where.endswith(".py") else importlib.import_module(where)
    return getattr(module, function)()


def load_file(path: str) -> ModuleType:
    """Import a file as the module of its name."""
    name = Path(path).stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"not a Python file: {path}", path=path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def describe(preload: Iterable[str], setup: str | None) -> dict[str, str]:
    """The environment that makes an import of this module warm a process so."""
    return {VARIABLE: json.dumps({"preload": list(preload), "setup": setup})}


if VARIABLE in os.environ:
    warm(**json.loads(os.environ.pop(VARIABLE)))
