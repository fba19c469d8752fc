"""What is asked: how many clones, what they do, and on which machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clonal.errors import Error
from clonal.kernel import memory
from clonal.model import PAGE, BadMachine, Config
from clonal.report.words import size

MOST_CLONES = 1_000_000
MOST_CORES = 8192  # NR_CPUS of x86-64
MOST_MEMORY = 1 << 52  # bytes: what its processors can address


class BadFleet(Error):
    """A fleet that cannot be: `what` is the option, `value` what was given."""

    def __init__(self, what: str, value: object, wanted: str) -> None:
        super().__init__(f"{what} is {value}, but must be {wanted}", what=what, value=value, wanted=wanted)


@dataclass(frozen=True)
class Fleet:
    """`written`: share of the heap that each clone writes; `refcounts`: share that it writes besides merely
    by reading Python objects; `read`: share that it reads; `rate`: bytes it writes a second, None: as fast
    as it can; `lifetime`: seconds on average, after which another clone takes its place, None: for ever;
    `starts`: clones a second, None: as fast as the server can; `same`: all write the same pages, else each
    its own random ones; `execs`: a clone does nothing but run another program."""

    clones: int = 1
    written: float = 0.05
    refcounts: float = 0.0
    read: float = 0.2
    rate: float | None = None
    lifetime: float | None = None
    starts: float | None = None
    same: bool = False
    execs: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.clones <= MOST_CLONES:
            raise BadFleet("clones", self.clones, f"from 1 to {MOST_CLONES:,}")
        for what in ("written", "refcounts", "read"):
            if not 0 <= getattr(self, what) <= 1:
                raise BadFleet(what, f"{getattr(self, what):.6g}", "a share from 0% to 100%")
        for what in ("rate", "lifetime", "starts"):
            value = getattr(self, what)
            if value is not None and not 0 < value < float("inf"):
                raise BadFleet(what, value, "more than 0")

    @property
    def share(self) -> float:
        """Of the heap's pages written, whatever for: random sets overlap. What only runs another program
        writes none."""
        return 0.0 if self.execs else self.written + self.refcounts * (1 - self.written)

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class Host:
    """The machine. `used`: bytes that others use; `limit`: of the memory cgroup of server and clones, None:
    none; `overcommit` and `overcommit_ratio`: vm.overcommit_memory and its ratio; `committed`: bytes that
    others have committed; `oom_score_adj`: the server's, and its clones'."""

    ram: int
    cores: int
    swap: int = 0
    used: int = 0
    committed: int = 0
    overcommit: int = 0
    overcommit_ratio: int = 50
    limit: int | None = None
    nodes: int = 1
    oom_score_adj: int = 0
    oom_score_adj_clones: int = 0

    def __post_init__(self) -> None:
        for what in ("oom_score_adj", "oom_score_adj_clones"):
            if not -1000 <= getattr(self, what) <= 1000:
                raise BadMachine(what, getattr(self, what), "from -1000 to 1000")
        if not 1 <= self.cores <= MOST_CORES:
            raise BadMachine("cores", self.cores, f"from 1 to {MOST_CORES:,}")
        for what in ("ram", "swap"):
            if getattr(self, what) >= MOST_MEMORY:
                raise BadMachine(what, getattr(self, what), f"less than {size(MOST_MEMORY)}")
        self.config  # noqa: B018  it refuses what cannot be
        if not 1 <= self.nodes <= self.cores:
            raise BadMachine("nodes", self.nodes, f"from 1 to the {self.cores} cores")
        if self.limit is not None and self.limit < PAGE:
            raise BadMachine("limit", self.limit, f"at least one page ({PAGE} bytes)")
        if self.used >= self.ram + self.swap:
            raise BadMachine("used", self.used, f"less than RAM and swap ({size(self.ram + self.swap)})")

    @property
    def config(self) -> Config:
        """The same machine for the model. Raises BadMachine."""
        return Config(
            ram=self.ram, swap=self.swap, overcommit=self.overcommit, overcommit_ratio=self.overcommit_ratio
        )

    @property
    def capacity(self) -> int:
        """Bytes that server and clones may take before the OOM killer comes."""
        free = self.ram + self.swap - self.used
        return free if self.limit is None else min(free, self.limit)

    @property
    def bound(self) -> str:
        """What that bound is called."""
        free = self.ram + self.swap - self.used
        return "memory cgroup limit" if self.limit is not None and self.limit < free else "RAM and swap"

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def this_host(cores: int) -> Host:
    """The machine this runs on, with what is in use on it now."""
    info = memory.meminfo()
    used = info["MemTotal"] - info["MemAvailable"] + info["SwapTotal"] - info["SwapFree"]
    mode, ratio = memory.overcommit_mode(), memory.vm_setting("overcommit_ratio")
    return Host(info["MemTotal"], cores, info["SwapTotal"], used, info["Committed_AS"], mode, ratio)
