"""Where the costs of this machine are kept: one file in the user's cache directory."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

from clonal.errors import Error
from clonal.kernel.machine import machine
from clonal.plan.costs import DEFAULT, BadCosts, Costs


def path() -> Path:
    """$XDG_CACHE_HOME/clonal/costs.json, or below ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()
    return folder / "clonal" / "costs.json"


def here() -> tuple[str, str]:
    """This machine and its kernel, as costs are marked with."""
    facts = machine()
    return f"{facts['cores']} × {facts['processor']}", platform.release()


def save(costs: Costs) -> Path:
    """Stores what was calibrated; a reader sees the old file or the new one. Raises Error."""
    target = path()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        new = target.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps(costs.to_json(), indent=1) + "\n", "utf-8")
        new.replace(target)
    except OSError as error:
        raise Error(f"cannot store the costs in {target}: {error.strerror}") from None
    return target


def load() -> Costs:
    """The costs of this machine, or the built-in default where none were stored, or those of another machine
    or kernel: a home directory may be shared. Raises BadCosts."""
    target = path()
    try:
        costs = Costs.from_json(json.loads(target.read_text("utf-8")), str(target))
    except FileNotFoundError:
        return DEFAULT
    except (OSError, ValueError) as error:
        raise BadCosts(str(target), f"cannot be read ({error})") from None
    return costs if (costs.origin.machine, costs.origin.kernel) == here() else DEFAULT
