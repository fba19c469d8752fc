"""What to change, with what each change is predicted to gain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from clonal.model import PAGE
from clonal.plan import limits
from clonal.plan.planner import OURS, PLAIN, Outlook, Plan, outlook, outlook_of
from clonal.plan.server import HUGE
from clonal.plan.storm import slowed

WORTH = 0.05  # a smaller gain is not worth a line
SEEN = 0.01  # a smaller change is none


class Gain(NamedTuple):
    """A figure before and after; `unit`: s, B, clones, or words."""

    what: str
    unit: str
    before: float | str
    after: float | str

    @property
    def share(self) -> float:
        """Of the figure that is saved; below 0: it gets worse."""
        if isinstance(self.before, str) or isinstance(self.after, str) or not self.before:
            return 1.0
        change = 1 - self.after / self.before
        return -change if self.unit == "clones" else change


class Remedy(NamedTuple):
    """A change: what, how it is made, and what it gains and costs."""

    what: str
    how: str
    gains: list[Gain]

    def to_json(self) -> dict[str, Any]:
        """Seconds, bytes, counts."""
        return {"what": self.what, "how": self.how, "gains": [gain._asdict() for gain in self.gains]}


def advise(plan: Plan) -> list[Remedy]:
    """What is worth changing, in the order of this file. Against plain fork, or against the image where the
    server is one already."""
    found = [remedy for make in REMEDIES for remedy in make(plan)]
    changed = [
        each._replace(gains=[gain for gain in each.gains if abs(gain.share) >= SEEN]) for each in found
    ]
    return [remedy for remedy in changed if any(gain.share >= WORTH for gain in remedy.gains)]


def _now(plan: Plan) -> Outlook:
    return plan.outlooks[OURS if plan.server.image else PLAIN]


def _fork(before: Outlook, after: Outlook) -> Gain:
    return Gain("one fork", "s", before.way.stall * 1e-9, after.way.stall * 1e-9)


def _first_touches(before: Outlook, after: Outlook) -> Gain:
    return Gain("first touches of a clone", "s", before.way.touch * 1e-9, after.way.touch * 1e-9)


def _memory(before: Outlook, after: Outlook) -> Gain:
    return Gain("memory of a clone", "B", before.way.memory, after.way.memory)


def _fit(before: Outlook, after: Outlook) -> Gain:
    return Gain("clones that fit", "clones", before.fit.clones, after.fit.clones)


def vfork(plan: Plan) -> Iterator[Remedy]:
    """For children that only exec."""
    if plan.fleet.execs:
        after = plan.outlooks["vfork"]
        how = "posix_spawn or subprocess with close_fds=True and no preexec_fn: both vfork; or clonal.launch"
        gains = [_fork(plan.plain, after), Gain("commit of a child", "B", plan.plain.way.commit, 0)]
        yield Remedy("vfork, since children only run another program", how, gains)


def image(plan: Plan) -> Iterator[Remedy]:
    """Fork no longer copies page tables of the heap."""
    if plan.server.image or plan.fleet.execs:
        return
    before, after = plan.plain, plan.outlooks[OURS]
    gains = [_fork(before, after), _first_touches(before, after), _memory(before, after), _fit(before, after)]
    yield Remedy(
        "freeze the heap into an image", "clonal.Template(preload), or clonal.freeze() before os.fork", gains
    )


def huge_pages(plan: Plan) -> Iterator[Remedy]:
    """Fork copies an entry for 2 MiB."""
    if plan.server.thp or plan.server.image or plan.server.heap < HUGE:
        return
    after = outlook_of(PLAIN, replace(plan.server, thp=True), plan.fleet, plan.host, plan.costs)
    gains = [_fork(plan.plain, after), _first_touches(plan.plain, after)]
    yield Remedy(
        "huge pages for the heap", "madvise(MADV_HUGEPAGE), or transparent_hugepage/enabled=always", gains
    )


def immortal(plan: Plan) -> Iterator[Remedy]:
    """Reading objects no longer writes to them."""
    if not plan.fleet.refcounts:
        return
    before = _now(plan)
    fleet = replace(plan.fleet, refcounts=0.0)
    after = outlook_of(before.way.name, plan.server, fleet, plan.host, plan.costs)
    how = "clonal.freeze() or a Template: immortal=True is their default (CPython 3.12)"
    gains = [_first_touches(before, after), _memory(before, after), _fit(before, after)]
    yield Remedy("make the warm objects immortal: reading them writes no reference counts", how, gains)


def standby(plan: Plan) -> Iterator[Remedy]:
    """Clones that were made before they are asked for."""
    before = _now(plan)
    gain = Gain("from the request to a running clone", "s", before.way.ready * 1e-9, plan.costs.wake * 1e-9)
    yield Remedy(
        "keep clones ready", "Template(standby=N): the fork is done before the request comes", [gain]
    )


def populate(plan: Plan) -> Iterator[Remedy]:
    """Known pages copied by one call instead of a fault each."""
    now = _now(plan)
    pages = now.way.private / PAGE
    saved = pages * (plan.costs.copy - plan.costs.populate)
    if now.way.touch and saved > 0:
        after = replace(now.way, touch=max(0.0, now.way.touch - saved))
        gain = Gain("first touches of a clone", "s", now.way.touch * 1e-9, after.touch * 1e-9)
        how = "madvise(MADV_POPULATE_WRITE) in the child, for what it will write; not in the parent"
        yield Remedy("populate in the child", how, [gain])


def shared_memory(plan: Plan) -> Iterator[Remedy]:
    """What all clones write may be meant to be one."""
    if not plan.fleet.same or not plan.plain.way.private:
        return
    before = _now(plan)
    cheaper = plan.costs.map_shared / plan.costs.copy
    shared = replace(before.way, private=0, touch=before.way.touch * cheaper)
    after = outlook(shared, plan.server, plan.fleet, plan.host, plan.costs)
    how = "MAP_SHARED memory (multiprocessing.shared_memory, clonal.shared_array) for what all write"
    yield Remedy("share what all clones write", how, [_first_touches(before, after), _memory(before, after)])


def overcommit(plan: Plan) -> Iterator[Remedy]:
    """Where fork is refused although there is memory."""
    before = _now(plan)
    if before.commit.at is None:
        return
    after = outlook(before.way, plan.server, plan.fleet, replace(plan.host, overcommit=1), plan.costs)
    gain = Gain("clones that the kernel lets commit", "clones", before.commit.allowed, plan.fleet.clones)
    how = "sysctl vm.overcommit_memory=1 (then watch memory itself), more swap, or a higher overcommit_ratio"
    yield Remedy("let the kernel promise more", how, [gain, _fit(before, after)])


def oom_score_adj(plan: Plan) -> Iterator[Remedy]:
    """Whom the OOM killer takes."""
    before = _now(plan)
    if before.victim is None or before.victim.who == "a clone":
        return
    host = replace(plan.host, oom_score_adj_clones=min(1000, plan.host.oom_score_adj + 500))
    after = limits.victim(before.way, plan.server, host)
    gain = Gain("taken first", "words", before.victim.who, after.who)
    freed = Gain("freed by that", "B", before.victim.frees, after.frees)
    yield Remedy(
        "have a clone killed, not the server", "oom_score_adj 500 in clones (choom, systemd)", [gain, freed]
    )


def nodes(plan: Plan) -> Iterator[Remedy]:
    """A server on each node: no clone copies from far."""
    if plan.host.nodes < 2:
        return
    before = _now(plan)
    cores = min(plan.host.cores, plan.fleet.clones)
    near = replace(plan.host, nodes=1)
    gain = Gain(
        "first touches of a clone, in a storm", "s",
        slowed(before.way, plan.host, plan.costs, cores) * 1e-9, slowed(before.way, near, plan.costs, cores)
    * 1e-9, )  # fmt: skip
    more = Gain(
        "memory of servers", "B", limits.base(plan.server), limits.base(plan.server) * plan.host.nodes
    )
    how = "one template for each node, started under numactl --cpunodebind=N --membind=N"
    yield Remedy("a server on each node", how, [gain, more])


REMEDIES: tuple[Callable[[Plan], Iterator[Remedy]], ...] = (
    vfork,
    image,
    huge_pages,
    immortal,
    standby,
    populate,
    shared_memory,
    overcommit,
    oom_score_adj,
    nodes,
)
