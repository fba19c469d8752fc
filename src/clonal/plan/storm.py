"""The fault storm: all clones touch their pages at the same moment, on the cores there are."""

from __future__ import annotations

from typing import NamedTuple

from clonal.model import PAGE
from clonal.plan.costs import Costs
from clonal.plan.question import Fleet, Host
from clonal.plan.ways import Way


class Storm(NamedTuple):
    """Seconds until the last clone has touched all it will; bytes a second that are copied meanwhile, and
    what the machine could copy at most; what it is that clones wait for."""

    seconds: float
    bandwidth: float
    most: float
    bound: str


def storm(way: Way, fleet: Fleet, host: Host, costs: Costs) -> Storm:
    """Of the clones of one fleet. What an eager copy copied at fork is no storm."""
    if not way.touch:
        return Storm(0.0, 0.0, costs.bandwidth, "nothing")
    copied = fleet.clones * way.private
    cores = min(host.cores, fleet.clones)
    faulting = fleet.clones * slowed(way, host, costs, cores) / cores * 1e-9
    moving = copied / (costs.bandwidth * max(1.0, host.cores / costs.cores)) if copied else 0.0
    rated = way.private / fleet.rate if fleet.rate else 0.0
    seconds, bound = max((faulting, "faults"), (moving, "memory bandwidth"), (rated, "the clones' own rate"))
    return Storm(seconds, copied / seconds, copied / max(faulting, moving), bound)


def slowed(way: Way, host: Host, costs: Costs, cores: int) -> float:
    """A clone's time for touching while `cores` fault, on all nodes alike: pages lie on the server's node."""
    pages = way.private / PAGE
    far = (host.nodes - 1) / host.nodes * (costs.remote - 1)
    return way.touch * (1 + costs.contention * (cores - 1)) + pages * costs.copy_page * far
