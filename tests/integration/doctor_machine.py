"""What `clonal doctor PID` says of the machine that the tests run on is no concern of theirs."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from clonal.kernel import cgroup
from clonal.observe.doctor import limits

OF_MACHINE = {"cgroup", "oom-score", "swap"}


@pytest.fixture(autouse=True)
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with memory left, and no limit but those that a test makes."""
    own = {group.path for group in cgroup.groups("memory", os.getpid())}

    def made(controller: str, pid: int | None = None) -> list[cgroup.Group]:
        return [group for group in cgroup.groups(controller, pid) if group.path not in own]

    monkeypatch.setattr(limits, "cgroup", SimpleNamespace(groups=made, Group=cgroup.Group))
    monkeypatch.setattr(limits, "_machine_is_full", lambda: False)
