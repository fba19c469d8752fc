"""Huge pages: where fork copies an entry for each small page, and where children do not keep huge ones."""

from __future__ import annotations

from collections.abc import Iterator

from clonal.kernel import memory
from clonal.kernel.probe import KERNEL, THP
from clonal.kernel.procfs import Smap
from clonal.observe.doctor.finding import WORTH, Fact, Finding, Remedy, forked
from clonal.observe.doctor.framework import Framework, before_fork
from clonal.observe.doctor.patient import Patient
from clonal.observe.doctor.predicted import first_writes, measured, outlook
from clonal.plan.server import HUGE, TABLE_SPAN
from clonal.report.words import size

STALL = 10e6  # nanoseconds that a fork could be shorter
SPLIT = 256  # huge pages in each child, on average: some 3 ms of faults
ENABLED = f"{THP}/enabled"
MAX_SHARED = f"{THP}/khugepaged/max_ptes_shared"


def small_pages(patient: Patient) -> Iterator[Finding]:
    """A fork copies an entry for each of them, one for 2 MiB of huge ones (mm/memory.c copy_page_range)."""
    remedy = _to_huge(patient.framework)
    if remedy is None:
        return
    for parent in patient.parents:
        server = measured(parent.pid)
        if server is None or not server.heap:
            continue
        found = outlook(server, patient.framework is not Framework.NONE)
        if found.saved >= STALL:
            huge, all_ = _huge(patient.entries(parent.pid)), server.heap
            evidence = (
                Fact(f"process {parent.pid} has {size(all_)} of private memory, {size(huge)} of it in huge "
                     f"pages: each fork copies {server.small_pages:,} entries",
                     f"Anonymous, AnonHugePages of /proc/{parent.pid}/smaps"),
                _setting(),
            )  # fmt: skip
            yield Finding("small-pages", evidence, remedy, None, found.forks())
            return


def _to_huge(framework: Framework) -> Remedy | None:
    """An image is of huge pages. A program that is not Python asks for them; None where none are given."""
    if framework is not Framework.NONE:
        return before_fork(framework, "clonal", "clonal.freeze()")
    if KERNEL.thp_enabled not in ("always", "madvise"):
        return None
    line = "madvise(start, length, MADV_HUGEPAGE);"
    return Remedy("where the memory is allocated, before it is written to", (line,))


def split_pages(patient: Patient) -> Iterator[Finding]:
    """The first write to one of a huge page's 512 parts splits it in the child (mm/huge_memory.c
    do_huge_pmd_wp_page)."""
    split = {
        child.pid: _lost(patient.entries(parent.pid), patient.entries(child.pid))
        for parent, child in patient.forked
    }
    most = max(split, key=lambda pid: split[pid], default=None)
    if patient.framework is Framework.NONE or most is None or sum(split.values()) < SPLIT * HUGE * len(split):
        return
    evidence = (
        Fact(f"{size(sum(split.values()))} that are huge pages in the parent are small ones in "
             f"{forked(len(split))}", "AnonHugePages, ShmemPmdMapped of /proc/PID/smaps"),
        Fact(f"process {most} has split {split[most] // HUGE:,} of them", f"/proc/{most}/smaps"),
        _setting(),
    )  # fmt: skip
    remedy = before_fork(patient.framework, "clonal", "clonal.freeze()")
    yield Finding("split-pages", evidence, remedy, None, first_writes(split[most] // HUGE))


def collapsed_pages(patient: Patient) -> Iterator[Finding]:
    """khugepaged copies what a child shares into a huge page of its own (mm/khugepaged.c)."""
    found = {
        child.pid: _gained(patient.entries(parent.pid), patient.entries(child.pid))
        for parent, child in patient.forked
    }
    gained, shared = sum(found.values()), int(memory.slurp(MAX_SHARED))
    saved = gained * shared // TABLE_SPAN  # at most: the rest of each huge page was the process's own
    if not found or saved < max(WORTH * len(found), 2 * HUGE):
        return
    most = max(found, key=lambda pid: found[pid])
    evidence = (
        Fact(f"{size(gained)} that {forked(len(found))} had of their parent in small pages are huge "
             f"pages of their own, {size(found[most])} of them in process {most}",
             "AnonHugePages of /proc/PID/smaps"),
        _setting(),
        Fact(f"up to {shared} shared pages of {TABLE_SPAN} are copied for one", MAX_SHARED),
    )  # fmt: skip
    remedy = Remedy("as root, before the program is started", (f"echo 0 > {MAX_SHARED}",))
    gain = f"at most {size(saved)}: how much of them the processes had written themselves is not known"
    yield Finding("collapsed-pages", evidence, remedy, None, gain)


def _setting() -> Fact:
    return Fact(f"huge pages: {memory.slurp(ENABLED).decode().strip()}", ENABLED)


def _huge(entries: list[Smap]) -> int:
    return sum(entry.sizes.get("AnonHugePages", 0) for entry in entries if entry.vma.private)


def _mapped_huge(entry: Smap) -> int:
    return entry.sizes.get("AnonHugePages", 0) + entry.sizes.get("ShmemPmdMapped", 0)


def _pairs(parent: list[Smap], child: list[Smap]) -> Iterator[tuple[Smap, Smap]]:
    """Mappings that the child has from its parent."""
    own = {(entry.vma.start, entry.vma.path): entry for entry in child}
    for entry in parent:
        inherited = own.get((entry.vma.start, entry.vma.path))
        if entry.vma.private and inherited is not None:
            yield entry, inherited


def _lost(parent: list[Smap], child: list[Smap]) -> int:
    """Bytes in huge pages of the parent that the child has in small ones."""
    total = 0
    for theirs, own in _pairs(parent, child):
        huge = _mapped_huge(own)
        split = 0 if "Anonymous" not in own.sizes else own.sizes["Rss"] - huge
        total += max(0, min(_mapped_huge(theirs) - huge, split))
    return total // HUGE * HUGE


def _gained(parent: list[Smap], child: list[Smap]) -> int:
    """Bytes in huge pages of the child that the parent has in small ones."""
    total = 0
    for theirs, own in _pairs(parent, child):
        huge = theirs.sizes.get("AnonHugePages", 0)
        total += max(0, min(own.sizes.get("AnonHugePages", 0) - huge, theirs.sizes.get("Rss", 0) - huge))
    return total
