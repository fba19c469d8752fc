"""What clonal plan predicts of a process that forks: as it is, and once it is frozen."""

from __future__ import annotations

from dataclasses import dataclass, replace

from clonal.plan import store
from clonal.plan.costs import DEFAULT, BadCosts, Costs
from clonal.plan.question import Fleet
from clonal.plan.server import NotMeasured, Server, measure
from clonal.plan.ways import Way, way
from clonal.report.words import duration


def costs() -> Costs:
    """Of this machine where they were measured and can be read."""
    try:
        return store.load()
    except BadCosts:
        return DEFAULT


@dataclass(frozen=True)
class Outlook:
    """A child that writes what `fleet` says. `now`: of the server as it is; `frozen`: of the same as an
    image."""

    now: Way
    frozen: Way
    costs: Costs

    @property
    def saved(self) -> float:
        """Nanoseconds of each fork."""
        return self.now.stall - self.frozen.stall

    def forks(self) -> str:
        return self._told("one fork", self.now.stall, self.frozen.stall)

    def touches(self) -> str:
        return self._told("first touches of a child", self.now.touch, self.frozen.touch)

    def _told(self, what: str, before: float, after: float) -> str:
        return (
            f"{what} {duration(before)} → {duration(after)}, by clonal plan ({self.costs.origin.kind} costs)"
        )


def outlook(server: Server, written: float = 0.0, read: float = 0.0) -> Outlook:
    """`written`, `read`: shares of the heap."""
    fleet, prices = Fleet(written=min(1.0, written), read=min(1.0, read)), costs()
    now = way("image" if server.image else "cow", server, fleet, prices)
    return Outlook(now, way("image", replace(server.thawed, huge_image=True), fleet, prices), prices)


def measured(pid: int) -> Server | None:
    """None for one that has ended, or that nothing can be said of."""
    try:
        return measure(pid)
    except (NotMeasured, ValueError):
        return None
