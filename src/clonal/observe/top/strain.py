"""What presses on memory outside the family: stalls, the commit limit, the limit of the memory group."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from clonal.kernel import cgroup, memory


@dataclass(frozen=True)
class Strain:
    """Sizes in bytes. `some` and `full`: percent of the last 10 s in which some task, or all, waited for
    memory (Documentation/accounting/psi.rst); None where the kernel does not say. `group` is the memory
    cgroup with the least room, None if there is no limit."""

    total: int
    available: int
    some: float | None
    full: float | None
    commit_limit: int
    committed: int
    overcommit: int
    group: str | None = None
    group_limit: int = 0
    group_used: int = 0

    @property
    def commit_left(self) -> int:
        """What may still be committed; the kernel refuses more in mode 2 only."""
        return self.commit_limit - self.committed

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"commit_left": self.commit_left}


def strain(pid: int | None = None) -> Strain:
    """As it is now. The group is that of `pid`, or of this process."""
    info = memory.meminfo()
    some, full = pressure()
    name, limit, used = _tightest(pid)
    return Strain(
        total=info["MemTotal"],
        available=info.get("MemAvailable", info["MemFree"]),
        some=some,
        full=full,
        commit_limit=info["CommitLimit"],
        committed=info["Committed_AS"],
        overcommit=memory.overcommit_mode(),
        group=name,
        group_limit=limit,
        group_used=used,
    )


def pressure() -> tuple[float | None, float | None]:
    """avg10 of `some` and `full`; None where the kernel has no PSI, or it is switched off."""
    try:
        text = memory.slurp("/proc/pressure/memory").decode()
    except OSError:
        return None, None
    found = {line.split()[0]: float(line.split()[1].removeprefix("avg10=")) for line in text.splitlines()}
    return found.get("some"), found.get("full")


def _tightest(pid: int | None) -> tuple[str | None, int, int]:
    try:
        groups = cgroup.groups("memory", pid)
    except OSError:  # it has ended
        return None, 0, 0
    found = [(limit - used, group.name, limit, used) for group, limit, used in _limited(groups)]
    return min(found)[1:] if found else (None, 0, 0)


def _limited(groups: list[cgroup.Group]) -> list[tuple[cgroup.Group, int, int]]:
    limits = [(group, group.limit()) for group in groups]
    return [(group, limit, group.usage()) for group, limit in limits if limit is not None]
