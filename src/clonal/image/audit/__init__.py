"""What makes forking this process unsafe, with evidence and remedy.

One small file per family of hazards; each registers its checks when imported here.
docs/hazards.md explains every hazard.
"""

from __future__ import annotations

from collections.abc import Collection

from clonal.image.audit import (  # noqa: F401  (imported to register their checks)
    databases,
    devices,
    environment,
    files,
    frozen,
    loops,
    randomness,
    sharing,
    sockets,
    threads,
    tls,
)
from clonal.image.audit.hazard import Hazard, Severity
from clonal.image.audit.registry import run_all

__all__ = ["Hazard", "Severity", "audit"]


def audit(*, ignore_fds: Collection[int] = ()) -> list[Hazard]:
    """The hazards of forking this process now, the worst first.

    Looks only: imports nothing that is not loaded, changes nothing, never raises for odd objects.
    `ignore_fds` are descriptors the caller means its clones to have. Call it before `freeze()`:
    a frozen heap is no longer listed by the collector.
    """
    return run_all(ignore_fds)
