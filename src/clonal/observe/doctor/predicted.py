"""What clonal plan predicts of a process that forks: as it is, and once it is frozen."""

from __future__ import annotations

from dataclasses import dataclass, replace

from clonal.kernel.procfs import PAGE
from clonal.model.strategies import Work
from clonal.plan import store
from clonal.plan.costs import DEFAULT, BadCosts, Costs
from clonal.plan.question import Fleet
from clonal.plan.server import NotMeasured, Server, measure
from clonal.plan.ways import Way, way
from clonal.report.words import duration

LIBRARIES = 10  # that an interpreter has loaded


def costs() -> Costs:
    """Of this machine where they were measured and can be read."""
    try:
        return store.load()
    except BadCosts:
        return DEFAULT


@dataclass(frozen=True)
class Outlook:
    """A fork. `now`: of the server as it is; `then`: of its memory as an image, or in huge pages."""

    now: Way
    then: Way
    costs: Costs

    @property
    def saved(self) -> float:
        """Nanoseconds of each fork."""
        return self.now.stall - self.then.stall

    def forks(self) -> str:
        return _told("one fork", self.now.stall, self.then.stall, self.costs)


def _told(what: str, before: float, after: float, prices: Costs) -> str:
    return f"{what} {duration(before)} → {duration(after)}, by clonal plan ({prices.origin.kind} costs)"


def outlook(server: Server, image: bool) -> Outlook:
    """Of a child that touches nothing of the heap. `image`: it is frozen then."""
    fleet, prices = Fleet(written=0.0, read=0.0), costs()
    now = way("image" if server.image else "cow", server, fleet, prices)
    huge = replace(server.thawed, huge_image=True) if image else replace(server, thp=True, tables=None)
    return Outlook(now, way("image" if image else "cow", huge, fleet, prices), prices)


def first_writes(pages: int) -> str:
    """The first write to each of so many huge pages that are shared, and to as many pages of an image."""
    prices = costs()
    work = Work(faults=pages, copied=pages)
    before = prices.price(work._replace(split=pages), prices.copy)
    return _told("first writes of a child", before, prices.price(work, prices.copy_file), prices)


def borrowed(shared: int) -> str:
    """A child that only executes, of a parent with so much private memory: a fork, and without one."""
    server, fleet, prices = Server.of(max(shared, PAGE), 0, LIBRARIES), Fleet(execs=True), costs()
    before, after = (way(name, server, fleet, prices).stall for name in ("cow", "vfork"))
    return _told("one fork", before, after, prices)


def measured(pid: int) -> Server | None:
    """None for one that has ended, or that nothing can be said of."""
    try:
        return measure(pid)
    except (NotMeasured, ValueError):
        return None


def less_own(copied: int, processes: int) -> int:
    """Bytes copied, without those that a frozen interpreter copies whatever it does."""
    return max(0, copied - processes * round(costs().python_pages_image) * PAGE)
