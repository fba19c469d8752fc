"""What stops a fleet: the commit limit, memory and the OOM killer."""

from __future__ import annotations

from typing import NamedTuple

from clonal.model import PAGE, CommitRefused
from clonal.model.commit import NEVER, check
from clonal.model.oom import badness
from clonal.plan.question import Host
from clonal.plan.server import TABLE_SPAN, Server
from clonal.plan.ways import Way

MANY = 1 << 31  # as many as anybody asks for


class Commit(NamedTuple):
    """How many clones the kernel lets commit; `at` is the first that is refused, None if none of the fleet
    is."""

    allowed: int
    at: int | None
    why: str


class Victim(NamedTuple):
    """Whom the OOM killer takes first; `points` are pages, `frees` bytes."""

    who: str
    points: int
    frees: int


class Fit(NamedTuple):
    """How many clones fit at once, and what bounds them."""

    clones: int
    bound: str


def commit(way: Way, server: Server, host: Host, clones: int) -> Commit:
    """mm/util.c __vm_enough_memory, clone after clone (6.18). An image is mapped NORESERVE but in mode 2."""
    spared = way.name == "image" and host.overcommit != NEVER
    each = 0 if spared else way.commit // PAGE
    if not each:
        return Commit(MANY, None, "nothing is committed")
    allowed = _allowed(server, host, each)
    why = f"vm.overcommit_memory={host.overcommit}: each clone commits {each * PAGE >> 20:,} MiB"
    if allowed == MANY:
        why = f"vm.overcommit_memory={host.overcommit} refuses only what could never fit"
    return Commit(allowed, allowed + 1 if allowed < clones else None, why)


def _allowed(server: Server, host: Host, each: int) -> int:
    """The most clones that may commit `each` pages."""
    config = host.config
    taken = (host.committed + server.committed) // PAGE
    size = (server.heap + server.image + server.code) // PAGE

    def refused(clones: int) -> bool:
        try:
            check(config, taken + (clones - 1) * each, each, size)
        except CommitRefused:
            return True
        return False

    low, high = 0, MANY
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (low, middle - 1) if refused(middle) else (middle, high)
    return low


def fit(way: Way, server: Server, host: Host) -> Fit:
    """How many clones are alive at once at most, each with all that it will touch."""
    room = host.capacity - base(server)
    by_memory = max(0, room // way.memory)
    allowed = commit(way, server, host, MANY).allowed
    return Fit(allowed, "commit limit") if allowed < by_memory else Fit(by_memory, host.bound)


def base(server: Server) -> int:
    """What the server takes before the first clone: its pages, once, and its page tables."""
    pages = server.heap_pages + server.code_pages + server.others
    return (pages + pages // TABLE_SPAN) * PAGE


def victim(way: Way, server: Server, host: Host) -> Victim:
    """mm/oom_kill.c oom_badness (6.18): resident pages count, shared or not, so sharing protects nobody; the
    last of equals is taken. The server's death frees its page tables only: clones still map its pages."""
    total = host.ram + host.swap if host.limit is None else min(host.limit, host.ram + host.swap)
    pages = server.heap_pages + server.others + server.code_pages
    tables = pages // TABLE_SPAN * PAGE
    mine = badness(pages, 0, tables, host.oom_score_adj, total // PAGE)
    its = badness(way.resident, 0, way.overhead, host.oom_score_adj_clones, total // PAGE)
    if its is not None and (mine is None or its >= mine):
        return Victim("a clone", its, way.memory)
    return Victim("the server" if mine is not None else "nobody: all are immune", mine or 0, tables)
