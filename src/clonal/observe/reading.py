"""All that is read of one member, in one pass: mappings, pages, kinds. What can be had of a process that ends
meanwhile is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from clonal.kernel import procfs
from clonal.kernel.procfs import PAGE, Smap, Vma
from clonal.observe import numa, programs, scan
from clonal.observe.family import Member, denied, ended
from clonal.observe.kinds import KINDS, Region, classify
from clonal.observe.pages import FILE, HPAGE, HUGE, SWAPPED, ZERO, Cut, Numbers, Pages, pages
from clonal.observe.pools import find_objects, is_python

ENDED = "ended while it was read"
SPARSE = 64 << 20  # bytes: a longer mapping is worth a question before it is read
_SPECIAL = frozenset({"pf", "io"})  # VmFlags: frames of a device or of the kernel, which are not its memory


@dataclass
class Reading:
    """What was read of a member. `kinds` has the kind of each page, as an index of KINDS; `problem` says why
    something is missing, `objects_by` how Python objects were found."""

    member: Member
    entries: list[Smap] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)
    pages: Pages = field(default_factory=Pages.none)
    kinds: npt.NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))
    status: procfs.Status | None = None
    stat: procfs.Stat | None = None
    nodes: dict[int, int] = field(default_factory=dict)
    objects_by: str = "no Python"
    problem: str = ""

    @property
    def vmas(self) -> list[Vma]:
        return [entry.vma for entry in self.entries]

    @property
    def address_space(self) -> tuple[int, int] | None:
        """What a fork keeps and an exec chooses anew: where the code and the stack begin (fs/binfmt_elf.c
        load_elf_binary). Above that lie its arguments: it differs without random addresses too."""
        return None if self.stat is None else (self.stat.start_code, self.stat.start_stack)

    def region_of_pages(self) -> Numbers:
        """The index of the region of each page; len(regions) where there is none."""
        return np.repeat(np.arange(len(self.regions) + 1), self._counts())

    def _counts(self) -> Numbers:
        starts = np.array([region.start // PAGE for region in self.regions] + [1 << 52])
        bounds = np.append(np.searchsorted(self.pages.number, starts), len(self.pages))
        return np.diff(bounds)

    def place(self) -> None:
        """Gives each page the kind of its region."""
        codes = np.array([KINDS.index(region.kind) for region in self.regions] + [len(KINDS) - 1], np.uint8)
        self.kinds = np.repeat(codes, self._counts())


@dataclass
class Common:
    """What members of a family have in common, read once: where programs end, mappings by their lines."""

    programs: programs.Cache = field(default_factory=dict)
    vmas: dict[bytes, Vma] = field(default_factory=dict)


def read(member: Member, zero: Numbers | None, common: Common, parent: Reading | None) -> Reading:
    """One member. Of a mapping that its parent has too, at the same place, the kinds are the parent's: only
    what is new is looked into. `zero`: frames of zeroes, None where frames are not shown."""
    found = Reading(member)
    pid = member.pid
    try:
        found.entries = procfs.smaps(pid, common.vmas)
        found.status, found.stat = procfs.status(pid), procfs.stat(pid)
        if not found.entries:
            raise ProcessLookupError
        found.regions = classify(found.vmas, programs.extents(pid, common.programs))
        found.nodes = numa.by_node(pid)
        found.pages = pages(pid, _spans(pid, found.entries), zero)
        if is_python(found.vmas):
            found.regions, found.objects_by = _with_objects(found, parent)
    except Cut as cut:
        found.pages, found.problem = cut.pages, ENDED
    except (ProcessLookupError, FileNotFoundError):
        found.problem = ENDED
    except PermissionError:
        found.problem = ENDED if ended(pid) else denied(pid)
    found.place()
    _mark(found, shown=zero is not None)
    return found


def _spans(pid: int, entries: Sequence[Smap]) -> list[tuple[int, int]]:
    """Where there can be pages. Of a long mapping that is mostly empty only the parts that are not, where the
    kernel can tell them; else it is read whole, or left out if nothing of it is memory."""
    found: list[tuple[int, int]] = []
    for entry in entries:
        span = (entry.vma.start, entry.vma.end)
        used = _resident(entry) + entry.sizes.get("Swap", 0)
        if not _has_pages(entry):
            continue
        if entry.vma.size <= max(SPARSE, 8 * used):
            found.append(span)
        elif scan.available():
            runs = scan.scan(pid, [span], scan.PRESENT | scan.SWAPPED)
            found += [(int(start), int(end)) for start, end, _ in runs]
        elif used:
            found.append(span)
    return found


def _has_pages(entry: Smap) -> bool:
    """False for frames of a device or of the kernel, and for [vsyscall], which is in no page table."""
    return not entry.flags & _SPECIAL and entry.vma.path != "[vsyscall]"


def _resident(entry: Smap) -> int:
    """Bytes in memory; pages of hugetlbfs are not in Rss (fs/proc/task_mmu.c smaps_hugetlb_range)."""
    sizes = entry.sizes
    return sizes.get("Rss", 0) + sizes.get("Shared_Hugetlb", 0) + sizes.get("Private_Hugetlb", 0)


def _with_objects(found: Reading, parent: Reading | None) -> tuple[list[Region], str]:
    known: dict[Vma, list[Region]] = {}
    if parent is not None and parent.address_space == found.address_space:
        for region in parent.regions:
            known.setdefault(parent.entries[region.vma].vma, []).append(region)
    parts: list[Region] = []
    unknown: list[Region] = []
    for region in found.regions:
        theirs = known.get(found.entries[region.vma].vma)
        if region.unsure and theirs is not None:
            parts += [each._replace(vma=region.vma) for each in theirs if each.unsure]
        else:
            unknown.append(region)
    in_memory = found.pages.number[found.pages.flags & (SWAPPED | ZERO) == 0]
    looked_at, how = find_objects(found.member.pid, unknown, in_memory)
    return sorted(parts + looked_at), how


def _mark(found: Reading, shown: bool) -> None:
    """Flags that pagemap does not have: huge entries, and without frames the zero page. The kernel is asked
    where smaps counts such; one that cannot be asked leaves the counts of smaps."""
    spans = []
    for entry in found.entries:
        missing = not shown and entry.vma.anonymous and entry.vma.size > _resident(entry)
        if _has_pages(entry) and (missing or _huge(entry)):
            spans.append(entry)
    if not spans:
        return
    if scan.available() and not found.problem:
        try:
            _mark_exactly(found, [(entry.vma.start, entry.vma.end) for entry in spans])
        except (ProcessLookupError, PermissionError, FileNotFoundError):
            found.problem = ENDED
        return
    for entry in spans:
        at = slice(*np.searchsorted(found.pages.number, (entry.vma.start // PAGE, entry.vma.end // PAGE)))
        _mark_huge(found.pages, at, _huge(entry))
        if not shown and entry.vma.anonymous:
            _mark_zero(found.pages, at, _resident(entry) // PAGE)


def _mark_exactly(found: Reading, spans: Sequence[tuple[int, int]]) -> None:
    runs = scan.scan(found.member.pid, spans, scan.HUGE | scan.PFNZERO)
    flags = (runs[:, 2] & np.uint64(scan.HUGE) != 0) * HUGE | (
        runs[:, 2] & np.uint64(scan.PFNZERO) != 0
    ) * ZERO
    bounds = np.searchsorted(found.pages.number, runs[:, :2].astype(np.int64) // PAGE)
    for (first, last), flag in zip(bounds.tolist(), flags.tolist(), strict=True):
        found.pages.flags[first:last] |= flag


def _huge(entry: Smap) -> int:
    """Pages in huge entries."""
    names = ("AnonHugePages", "ShmemPmdMapped", "FilePmdMapped", "Shared_Hugetlb", "Private_Hugetlb")
    return sum(entry.sizes.get(name, 0) for name in names) // PAGE


def _mark_huge(found: Pages, at: slice, count: int) -> None:
    """Whole aligned blocks of pages that follow each other, as many as smaps says."""
    number, frame = found.number[at], found.frame[at]
    firsts = np.flatnonzero(number % HPAGE == 0)
    firsts = firsts[firsts + HPAGE <= len(number)]
    whole = number[firsts + HPAGE - 1] == number[firsts] + HPAGE - 1
    whole &= frame[firsts + HPAGE - 1] - frame[firsts] == np.where(frame[firsts] > 0, HPAGE - 1, 0)
    whole &= frame[firsts] % HPAGE == 0
    blocks = firsts[whole][: count // HPAGE]
    found.flags[at][(blocks[:, None] + np.arange(HPAGE)).ravel()] |= HUGE


def _mark_zero(found: Pages, at: slice, resident: int) -> None:
    """Of the entries that are neither file's nor exclusive, as many as smaps does not count. Which ones they
    are cannot be told; the last ones are taken."""
    flags = found.flags[at]
    candidates = np.flatnonzero(flags == 0)
    zeroes = np.count_nonzero(flags & SWAPPED == 0) - resident
    if zeroes > 0:
        flags[candidates[max(0, len(candidates) - zeroes) :]] |= ZERO


def private_file(found: Reading) -> npt.NDArray[np.bool_]:
    """Which regions are private mappings of files: an anonymous page there is a copy."""
    return np.array([region.filed for region in found.regions] + [False])


def is_anonymous(found: Pages) -> npt.NDArray[np.bool_]:
    which: npt.NDArray[np.bool_] = found.flags & (FILE | SWAPPED | ZERO) == 0
    return which
