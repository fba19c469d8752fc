"""Clone warm Python processes by copy-on-write.

Public names load their modules on first use, so `import clonal` costs little and needs neither
numpy nor rich.
"""

from __future__ import annotations

import importlib
from typing import Any

from clonal.errors import (
    CloneDied,
    CloneRefused,
    CloneTimeout,
    Error,
    FreezeRefused,
    RemoteTraceback,
    ResultNotPicklable,
    SetupFailed,
    StaleCodeWarning,
    TemplateClosed,
    TemplateDied,
    WrongProcess,
)

__version__ = "0.1.0"

_LAZY = {
    "freeze": "clonal.image.freeze",
    "FreezeReport": "clonal.image.report",
    "audit": "clonal.image.audit",
    "Hazard": "clonal.image.audit",
    "Template": "clonal.clone.template",
    "Clone": "clonal.clone.handle",
    "before_clone": "clonal.clone.hooks",
    "in_clone": "clonal.clone.hooks",
    "shared_array": "clonal.clone.shared",
    "launch": "clonal.clone.launch",
    "sharing": "clonal.observe.sharing",
    "FamilySharing": "clonal.observe.sharing",
}

__all__ = [
    "Clone",
    "CloneDied",
    "CloneRefused",
    "CloneTimeout",
    "Error",
    "FamilySharing",
    "FreezeRefused",
    "FreezeReport",
    "Hazard",
    "RemoteTraceback",
    "ResultNotPicklable",
    "SetupFailed",
    "StaleCodeWarning",
    "Template",
    "TemplateClosed",
    "TemplateDied",
    "WrongProcess",
    "audit",
    "before_clone",
    "freeze",
    "in_clone",
    "launch",
    "shared_array",
    "sharing",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'clonal' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
