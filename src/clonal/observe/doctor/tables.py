"""Page tables of children, and which of them a remedy spares."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clonal.image.core import GAP_PAGES, SPARE_VMAS
from clonal.kernel.memory import vm_setting
from clonal.kernel.procfs import PAGE, Smap, Vma
from clonal.observe.doctor.finding import Fact, Finding, Remedy, forked
from clonal.observe.doctor.framework import Framework, before_fork
from clonal.observe.doctor.patient import Patient
from clonal.observe.kinds import IMAGE_PATH, MemoryKind, Region
from clonal.observe.pages import EXCLUSIVE, FILE, HPAGE, ZERO, Numbers
from clonal.observe.reading import Reading
from clonal.report.words import size

TABLES, OF_MEMORY = 64 << 20, 0.05  # bytes that are saved, and their share of all that the family takes
UPPER = 8  # tables of tables
LONGEST = 1 << 18  # pages: no longer gap is filled
STAY = frozenset({"lo", "wf", "sl", "mm", "um", "uw", "ui"})  # VmFlags of what no image takes (vma.c)


class Spared(NamedTuple):
    """By a remedy, in bytes of all children."""

    bytes: int
    evidence: Fact
    remedy: Remedy
    rank: float  # by the bytes; what asks more of the program is to save twice as much


class Scattered(NamedTuple):
    """Large buffers, and the tables that they have pages in."""

    pid: int
    region: Region
    pages: int
    tables: Numbers


def page_tables(patient: Patient) -> Iterator[Finding]:
    """Each child has tables of its own for the same memory (kernel/fork.c: dup_mmap)."""
    children = [child for _, child in patient.forked]
    memory = sum(each.pss for each in patient.family.members)
    least = max(TABLES, OF_MEMORY * memory)
    tables = sum(child.page_tables for child in children)
    if tables < least:
        return
    spared = max([*_frozen(patient), *_shared(patient)], key=lambda each: each.rank, default=None)
    if spared is not None and spared.bytes >= least:
        evidence = (
            Fact(f"{size(tables)} in {forked(len(children))}", "VmPTE of /proc/PID/status"),
            Fact(f"all memory of the family is {size(memory)}", "Pss of /proc/PID/smaps"),
            spared.evidence,
        )
        yield Finding("page-tables", evidence, spared.remedy, spared.bytes)


def _frozen(patient: Patient) -> Iterator[Spared]:
    """All but those of pages that a child wrote to or has of files, which it would have touched anyway, and
    those that are copied for what lies between the pages of an image."""
    if patient.framework is Framework.NONE:
        return
    left = {parent.pid: left_by_image(patient.readings[parent.pid]) for parent in patient.parents}
    total = 0
    for parent, child in patient.forked:
        stay = np.union1d(_touched(patient.readings[child.pid]), left[parent.pid])
        total += max(0, child.page_tables - (len(stay) + UPPER) * PAGE)
    text = "once frozen, a child has tables for what it touches; what it only reads is not known"
    remedy = before_fork(patient.framework, "clonal", "clonal.freeze()")
    yield Spared(total, Fact(text, "/proc/PID/pagemap"), remedy, total)


def _touched(child: Reading) -> Numbers:
    """Tables of the pages that it wrote to or has of files."""
    return _tables(child.pages.number[child.pages.flags & (EXCLUSIVE | FILE) != 0])


def left_by_image(parent: Reading) -> Numbers:
    """Tables that a fork copies all the same once the parent is frozen: what is not in the image has been
    private memory, and is walked (mm/memory.c vma_needs_copy). As plan.c makes an image: of runs of pages,
    joined over gaps of `GAP_PAGES`, or over longer ones where there would be too many mappings."""
    room = vm_setting("max_map_count") - SPARE_VMAS - len(parent.entries)
    spans = [(each, _own(parent, each.vma)) for each in parent.entries if each.sizes.get("Anonymous")]
    stays = [_tables(own) for each, own in spans if not _imaged(each)]
    taken = [(each, own) for each, own in spans if _imaged(each) and IMAGE_PATH not in each.vma.path]
    gap = GAP_PAGES
    while gap < LONGEST and 2 * sum(_runs(own, gap) for _, own in taken) > room:
        gap = gap * 8 + 8
    parts = [*stays, *(_cut(each, own, gap) for each, own in taken)]
    return np.unique(np.concatenate(parts)) if parts else np.empty(0, np.int64)


def _runs(pages: Numbers, gap: int) -> int:
    return 1 + int(np.count_nonzero(np.diff(pages) > gap + 1))


def _imaged(entry: Smap) -> bool:
    """Whether what is private there goes into an image (vma.c)."""
    vma = entry.vma
    kept = vma.path == "[stack]" or vma.perms[0] != "r" or vma.perms[2] == "x" or not vma.private
    return not kept and not entry.flags & STAY


def _cut(entry: Smap, own: Numbers, gap: int) -> Numbers:
    """Tables with pages of this mapping that the image does not take as a whole."""
    if not len(own):
        return own
    first, end = entry.vma.start // PAGE, entry.vma.end // PAGE
    begins = np.concatenate([[first], own + 1])  # of what lies between two pages
    ends = np.concatenate([own, [end]])
    wide = ends - begins > gap
    bounds = np.concatenate([begins[wide], ends[wide] - 1]) // HPAGE
    tables, pages = np.unique(own // HPAGE, return_counts=True)
    whole = (tables * HPAGE >= first) & ((tables + 1) * HPAGE <= end)
    huge: npt.NDArray[np.bool_] = whole & (2 * pages >= HPAGE)  # imaged with its gaps (plan.c block_is_huge)
    return np.intersect1d(bounds, tables[~huge])


def _own(reading: Reading, part: Vma | Region) -> Numbers:
    """The private pages of a mapping, or of a part of one."""
    first, end = np.searchsorted(reading.pages.number, (part.start // PAGE, part.end // PAGE))
    which = reading.pages.flags[first:end] & (FILE | ZERO) == 0
    own: Numbers = reading.pages.number[first:end][which]
    return own


def _tables(pages: Numbers) -> Numbers:
    """Which tables have entries of these pages; `pages` in order."""
    tables: Numbers = pages // HPAGE
    return tables[np.diff(tables, prepend=-1) > 0]


def _shared(patient: Patient) -> Iterator[Spared]:
    """Of shared memory a fork copies no entry (vma_needs_copy): a child's tables are for what it touches."""
    found = [each for parent in patient.parents for each in _scattered(patient.readings[parent.pid])]
    if patient.framework is Framework.NONE or not found:
        return
    most = max(found, key=lambda each: len(each.tables))
    total = 0
    for _, child in patient.forked:
        reading = patient.readings[child.pid]
        inherited = _tables(_own(reading, most.region))
        total += len(np.setdiff1d(inherited, _touched(reading))) * PAGE
    text = (
        f"{most.pages:,} pages of a mapping of {size(most.region.size)} are scattered over "
        f"{len(most.tables):,} tables: an image of them has a mapping for each run, and saves little"
    )
    lines = ("import clonal", "table = clonal.shared_array(shape, dtype)  # if all are to see one table")
    source = f"/proc/{most.pid}/pagemap, from {most.region.start:#x} on"
    yield Spared(total, Fact(text, source), Remedy("where this memory is allocated", lines), total / 2)


def _scattered(reading: Reading) -> Iterator[Scattered]:
    """The large buffers of a process."""
    for region in reading.regions:
        if region.kind is MemoryKind.BUFFERS and reading.entries[region.vma].vma.private:
            own = _own(reading, region)
            yield Scattered(reading.member.pid, region, len(own), _tables(own))
