"""Every way of cloning, priced with the same costs: what it takes of the caller, of the clone and of memory.

How much work each is, is counted on the page-exact model (clonal.model.strategies). `cow` and `vfork` are
what Linux does; `image` is what Clonal does on Linux; the others are models of what was built elsewhere, or
was thought of.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clonal.model import PAGE, Process
from clonal.model.strategies import STRATEGIES, Bill, Work, bill
from clonal.plan import scale
from clonal.plan.costs import Costs
from clonal.plan.question import Fleet
from clonal.plan.server import TABLE_SPAN, Server
from clonal.plan.stage import Draw, Touched, build

PROCESS = 40 << 10  # kernel stack, task_struct, mm, files, signals, top page tables
VMA, ANON_VMA = 256, 160  # struct vm_area_struct with its part of the tree; anon_vma and its links
HOT = Work(copied_vmas=40, entries=600, tables=60)  # what a template has private again when it has settled
WORDS = {
    "eager": "copies all memory at once, as before copy-on-write",
    "cow": "os.fork on Linux: page tables at fork, pages when written",
    "vfork": "borrows the caller's memory: for children that exec",
    "shared_tables": "page tables shared until written (On-demand-fork; a model)",
    "async_copy": "the child copies the page tables (Async-fork; a model)",
    "image": "a frozen image (Clonal): nothing to copy at fork",
    "hardware": "pages copied without a trap (no such machine; a model)",
}
UNTRAPPED = ("eager", "hardware")  # copies that no fault asked for


@dataclass(frozen=True)
class Way:
    """One strategy for one clone: times in nanoseconds, memory in bytes."""

    name: str
    stall: float  # of the caller, in the call
    ready: float  # from the call until the clone can run
    touch: float  # the clone's faults, alone on the machine: it writes and reads what it will
    end: float  # of a clone, from its exit until it was reaped
    private: int  # pages that it added, once it has touched all it will
    overhead: int  # page tables and the kernel's own structures
    commit: int  # what each clone commits where the kernel counts
    copied: int  # bytes copied for it, at the call or later
    resident: int  # pages that count against it when memory runs out (RSS)

    @property
    def what(self) -> str:
        """In words."""
        return WORDS[self.name]

    @property
    def memory(self) -> int:
        """What one more clone takes."""
        return self.private + self.overhead


def ways(server: Server, fleet: Fleet, costs: Costs) -> dict[str, Way]:
    """All of them, by name."""
    return {name: way(name, server, fleet, costs) for name in STRATEGIES}


def way(name: str, server: Server, fleet: Fleet, costs: Costs) -> Way:
    """One of them: a clone is made on the model, touches its pages, and its work is priced. Of a server that
    is an image, the others are what they would be if it were none."""
    server = server if name == "image" else server.thawed
    counted = count(name, server, fleet, costs)
    copy = costs.copy_page if name in UNTRAPPED else costs.copy_file if name == "image" else costs.copy
    stall = costs.vfork
    if name != "vfork":
        own = _python_fork(server, costs) if server.python else 0.0
        files = server.mapped_files * costs.file_vma
        stall = costs.fork_base + own + files + costs.price(counted.caller, copy)
    return Way(
        name,
        stall,
        stall + costs.price(counted.before, copy),
        costs.price(counted.child, copy, trapped=name != "hardware"),
        exit_time(server, counted, costs),
        counted.frames * PAGE,
        _overhead(name, server, counted),
        0 if name == "vfork" else server.committed,
        (counted.caller.copied + counted.child.copied) * PAGE,
        counted.resident,
    )


def _python_fork(server: Server, costs: Costs) -> float:
    """What os.fork takes beyond fork. The parent writes to pages in it that are now shared, about half of
    them of the heap: where that is in huge pages, each splits one."""
    split = min(costs.python_faults / 2, server.huge_pages) * max(0.0, costs.split_huge - costs.copy)
    return costs.python_fork + split


def count(name: str, server: Server, fleet: Fleet, costs: Costs) -> Bill:
    """The work and memory of one clone, by the model, and by what is known of real servers."""
    counted = as_measured(scale.counted(lambda part: _on_the_model(name, part, fleet), server), server)
    if name == "eager":  # a plain copy of everything copies code too, which Unix, and the model, leave shared
        caller = counted.caller + Work(copied=server.code_pages)
        counted = counted._replace(caller=caller, frames=counted.frames + server.code_pages)
    if name == "async_copy":  # what the child did before it ran is in both
        done, child = counted.before, counted.child
        child = child._replace(entries=child.entries - done.entries, tables=child.tables - done.tables)
        counted = counted._replace(child=child)
    if name == "image" and not server.image:  # a real template has some private pages again
        counted = counted._replace(caller=counted.caller + HOT, tables=counted.tables + HOT.tables)
    if server.python and name not in ("eager", "vfork"):
        counted = _of_python(counted, costs.python_pages_image if name == "image" else costs.python_pages)
    return counted


def _of_python(counted: Bill, pages: float) -> Bill:
    """An interpreter writes some pages whatever it does."""
    child = counted.child + Work(copied=round(pages), faults=round(pages))
    return counted._replace(child=child, frames=counted.frames + round(pages))


def _on_the_model(name: str, server: Server, fleet: Fleet) -> Bill:
    touched = Draw(server, fleet).touched()
    counted = _bill(name, server, touched)
    return _in_huge_pages(counted, touched) if name == "image" and server.huge_image else counted


def _bill(name: str, server: Server, touched: Touched) -> Bill:
    def made() -> Process:
        return build(server, 1, 1.0)

    if name == "vfork":  # the child has no memory of its own, and ends at once
        return bill(STRATEGIES[name](), made)._replace(resident=0, huge=0)
    if name == "image" and server.image:  # it is one already, and what is private in it is copied as ever
        name = "cow"
    return bill(STRATEGIES[name](), made, child_reads=touched.read, child_writes=touched.written)


def _in_huge_pages(counted: Bill, touched: Touched) -> Bill:
    """An image in huge pages is mapped 2 MiB at a time by what is read."""
    child = counted.child
    mapped = child.faults - child.copied - child.zeroed - child.reused
    read, written = (np.unique(pages // TABLE_SPAN) for pages in (touched.read, touched.written))
    whole = np.setdiff1d(read, written).size  # what is written to is split, and its other entries go
    child = child._replace(faults=child.faults - mapped + min(mapped, read.size))
    kept = counted.caller.entries
    return counted._replace(child=child, huge=whole, resident=kept + counted.frames + whole * TABLE_SPAN)


def as_measured(counted: Bill, server: Server) -> Bill:
    """A real heap lies scattered over more page tables than the model's, where they were counted."""
    if server.tables is None or not counted.caller.tables:
        return counted
    factor = server.tables / counted.caller.tables
    caller = counted.caller._replace(tables=server.tables)
    return counted._replace(caller=caller, tables=round(counted.tables * factor))


def exit_time(server: Server, counted: Bill, costs: Costs) -> float:
    """From the exit of a child until it was reaped, by what it has to unmap and free."""
    shared = max(0, counted.resident - counted.frames - counted.huge * TABLE_SPAN)
    unmapping = shared * costs.exit_pte
    if counted.child.split:  # what is left of a huge page is unmapped run by run
        runs = min(shared, counted.child.copied + counted.child.split)
        unmapping = runs * costs.exit_pte + shared * costs.exit_batched
    freeing = counted.frames * costs.exit_page + max(0, counted.tables) * costs.exit_table
    files = server.mapped_files * costs.exit_file_vma if counted.caller.vmas else 0.0
    return costs.exit_base + counted.caller.vmas * costs.exit_vma + files + unmapping + freeing


def _overhead(name: str, server: Server, counted: Bill) -> int:
    """Bytes of page tables and of the kernel's structures for one clone."""
    if name == "vfork":
        return PROCESS
    return PROCESS + server.vmas * VMA + server.anon_vmas * ANON_VMA + max(0, counted.tables) * PAGE
