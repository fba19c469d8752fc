"""The fleet on the page-exact model: every page of every clone that it simulates."""

from __future__ import annotations

from typing import NamedTuple

from clonal.model import PAGE, Faults
from clonal.plan import scale
from clonal.plan.question import Fleet
from clonal.plan.server import Server
from clonal.plan.stage import Draw, build

MOST_PAGES = 400_000_000  # entries of all simulated clones together: some 2 GB
MOST_CLONES = 10_000  # a fork takes time however small it is


class Exact(NamedTuple):
    """What the clones of a plain fork did, page by page. Of all simulated clones, unless it says average."""

    clones: int
    copied: int  # pages
    reused: int
    faults: int
    private: float  # frames that a clone added, on average
    tables: float  # page tables of a clone, on average
    share: float = 1.0  # of the server that was simulated; the counts are for all of it


def simulate(server: Server, fleet: Fleet, clones: int | None = None) -> Exact:
    """Forks the clones, of which each writes its pages. `clones`: only so many, if they are not to be as
    many as memory allows."""
    server, times = scale.smaller(scale.few_mappings(server)[0], scale.EXACT)
    count = min(fleet.clones, _affordable(server, fleet) if clones is None else clones)
    parent = build(server, count, fleet.share)
    draw = Draw(server, fleet)
    before = parent.machine.frames.used
    total, tables = Faults(), 0
    for _ in range(count):
        child = parent.fork()
        total += child.touch(draw.written())
        tables += child.page_table_bytes // PAGE
    private = (parent.machine.frames.used - before) / count
    copied, reused, faults = (round(each * times) for each in (total.copied, total.reused, total.minor))
    return Exact(count, copied, reused, faults, private * times, tables * times / count, 1 / times)


def _affordable(server: Server, fleet: Fleet) -> int:
    """How many clones can be simulated in bounded memory and time; at least one. A page that was copied takes
    some five times what one does that is shared."""
    each = (server.heap_pages + server.others) * (1 + 4 * fleet.share)
    return max(1, min(MOST_CLONES, int(MOST_PAGES / max(1, each))))
