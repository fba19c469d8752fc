"""What only the model does: settings that no demonstration changes on a running machine, and the killer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from clonal.scenario import ModelRunner


def never(model: ModelRunner) -> str:
    """vm.overcommit_memory = 2."""
    model.machine.config = replace(model.machine.config, overcommit=2)
    return "vm.overcommit_memory = 2"


def kill(model: ModelRunner) -> str:
    """The OOM killer takes one process."""
    return f"killed: {model.kill_for_memory() or 'nobody'}"


ACTS: dict[str, Callable[[ModelRunner], str]] = {"never": never, "kill": kill}
