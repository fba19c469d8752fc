"""The plan: every strategy priced for one server, one fleet and one machine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from clonal.plan import limits
from clonal.plan.costs import Costs
from clonal.plan.exact import Exact, simulate
from clonal.plan.limits import Commit, Fit, Victim
from clonal.plan.overtime import OverTime, over_time
from clonal.plan.question import Fleet, Host
from clonal.plan.server import Server
from clonal.plan.storm import Storm, storm
from clonal.plan.ways import Way, way, ways

PLAIN, OURS = "cow", "image"


@dataclass(frozen=True)
class Outlook:
    """What one strategy means for the fleet. Times in seconds."""

    way: Way
    forks: float  # in which the server forks all clones
    storm: Storm
    memory: OverTime
    commit: Commit
    fit: Fit
    victim: Victim | None  # None: the OOM killer does not come
    busy: float | None  # share of one core that the server spends on replacing clones

    def to_json(self) -> dict[str, Any]:
        """Seconds and bytes."""
        way = self.way
        return {
            "what": way.what,
            "fork_seconds": way.stall * 1e-9,
            "ready_seconds": way.ready * 1e-9,
            "touch_seconds": way.touch * 1e-9,
            "exit_seconds": way.end * 1e-9,
            "all_forks_seconds": self.forks,
            "private_bytes": way.private,
            "overhead_bytes": way.overhead,
            "copied_bytes": way.copied,
            "storm": self.storm._asdict(),
            "memory": self.memory.to_json(),
            "commit": self.commit._asdict(),
            "oom": self._oom(),
            "fit": self.fit._asdict(),
            "replacing_share_of_a_core": self.busy,
        }

    def _oom(self) -> dict[str, Any] | None:
        if self.victim is None:
            return None
        memory = self.memory
        when = {"seconds": memory.full, "clones": memory.alive, "share_of_fleets": memory.over}
        return when | self.victim._asdict()


@dataclass(frozen=True)
class Plan:
    """`exact`: the clones of a plain fork, page by page. `copied_pages`: by all clones together."""

    server: Server
    fleet: Fleet
    host: Host
    costs: Costs
    exact: Exact
    copied_pages: int
    outlooks: dict[str, Outlook]

    @property
    def plain(self) -> Outlook:
        """os.fork's."""
        return self.outlooks[PLAIN]

    def to_json(self) -> dict[str, Any]:
        """Everything but the advice."""
        return {
            "server": self.server.to_json(),
            "fleet": self.fleet.to_json(),
            "host": self.host.to_json(),
            "costs": self.costs.to_json(),
            "costs_from": self.costs.origin.sentence(),
            "copied_pages": self.copied_pages,
            "page_exact_clones": self.exact.clones,
            "page_exact_share": self.exact.share,
            "strategies": {name: outlook.to_json() for name, outlook in self.outlooks.items()},
        }


def plan(server: Server, fleet: Fleet, host: Host, costs: Costs, exact: int | None = None) -> Plan:
    """Prices all strategies. `exact`: how many clones are simulated page by page, the others being like their
    average; None: all, as far as memory allows."""
    counted = simulate(server, fleet, exact)
    copied = round(counted.copied * fleet.clones / counted.clones)
    found = {
        name: outlook(each, server, fleet, host, costs) for name, each in ways(server, fleet, costs).items()
    }
    return Plan(server, fleet, host, costs, counted, copied, found)


def outlook_of(name: str, server: Server, fleet: Fleet, host: Host, costs: Costs) -> Outlook:
    """One strategy alone."""
    return outlook(way(name, server, fleet, costs), server, fleet, host, costs)


def outlook(way: Way, server: Server, fleet: Fleet, host: Host, costs: Costs) -> Outlook:
    """One strategy: its times, memory and limits."""
    start = max(way.stall * 1e-9, 1 / fleet.starts if fleet.starts else 0.0)
    commit = limits.commit(way, server, host, fleet.clones)
    base, room = limits.base(server), host.capacity
    if commit.allowed:
        granted = replace(fleet, clones=min(fleet.clones, commit.allowed))  # the others are never there
        memory = over_time(granted, base, way.overhead, way.private, start, _touching(way, fleet), room)
    else:
        memory = over_time(replace(fleet, clones=1, lifetime=None), base, 0.0, 0.0, start, 0.0, room)
    return Outlook(
        way,
        fleet.clones * way.stall * 1e-9,
        storm(way, fleet, host, costs),
        memory,
        commit,
        limits.fit(way, server, host),
        None if memory.full is None else limits.victim(way, server, host),
        way.stall * 1e-9 * fleet.clones / fleet.lifetime if fleet.lifetime else None,
    )


def _touching(way: Way, fleet: Fleet) -> float:
    """Seconds from a clone's start until it holds all it will; nothing is written to an eager copy."""
    if not way.touch:
        return 0.0
    return max(way.touch * 1e-9, way.private / fleet.rate if fleet.rate else 0.0)
