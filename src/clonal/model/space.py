"""An address space (struct mm_struct): its mappings in order, and the calls that change them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from clonal.model import huge
from clonal.model.errors import BadFlags, BadRange, Segfault, Unmodelled
from clonal.model.files import File
from clonal.model.flags import HUGE, PAGE, TASK_END, Advice, Config, Map, Prot
from clonal.model.frames import NO_FRAME, ZERO_FRAME, Frames
from clonal.model.tables import Tables
from clonal.model.tlb import Tlb, needs_flush
from clonal.model.vma import Vma, new_anon_vma

TOP = (TASK_END >> 20 << 20) // PAGE - 256  # where mmap starts to look, downwards
BOTTOM = 16
HEAP = 0x5555_5600_0000  # address


def page_range(address: int, length: int) -> tuple[int, int]:
    """First and last + 1 page of a range that the kernel would take: `address` on a page, length not 0.
    Raises BadRange."""
    if address % PAGE:
        raise BadRange(address, address + length, "does not start on a page")
    if length <= 0:
        raise BadRange(address, address + length, "is empty")
    end = address + length
    if address < BOTTOM * PAGE or end > TASK_END:
        raise BadRange(address, end, "lies outside user space")
    return address // PAGE, -(-end // PAGE)


class AddressSpace:
    """`vmas` are in order and do not overlap."""

    def __init__(self, frames: Frames, config: Config) -> None:
        self.frames, self.config = frames, config
        self.vmas: list[Vma] = []
        self.tables = Tables(frames.tables)
        self.tlb = Tlb(frames, self.tables)
        self.heap = self.brk = HEAP  # where the heap that brk moves begins and ends
        self.users = 1  # processes: more than one after vfork
        self.splits = 0  # entries of huge pages that became 512 each (/proc/vmstat: thp_split_pmd)

    @property
    def total_vm(self) -> int:
        """Pages mapped."""
        return sum(vma.pages for vma in self.vmas)

    def find(self, page: int) -> Vma | None:
        """The mapping of a page (mm/mmap.c vma_lookup)."""
        at = bisect_right(self.vmas, page, key=lambda vma: vma.start) - 1
        return self.vmas[at] if at >= 0 and page < self.vmas[at].end else None

    def between(self, start: int, end: int) -> list[Vma]:
        """The mappings that have pages in [start, end)."""
        first = bisect_right(self.vmas, start, key=lambda vma: vma.end)
        return self.vmas[first : bisect_left(self.vmas, end, lo=first, key=lambda vma: vma.start)]

    def mmap(
        self,
        pages: int,
        prot: Prot,
        flags: Map,
        file: File | None,
        offset: int,
        at: int | None,
        account: Callable[[int], bool],
    ) -> int:
        """A new mapping of `pages` at page `at`, which must be free, or where there is room; its first page.
        It may become part of a neighbour. `account` says whether it counts as committed, or refuses it."""
        if bool(flags & Map.SHARED) == bool(flags & Map.PRIVATE):
            raise BadFlags(flags, "a mapping is either SHARED or PRIVATE")
        if (file is None) != bool(flags & Map.ANONYMOUS):
            raise BadFlags(flags, "a mapping has either a file or ANONYMOUS")
        if file is not None and not 0 <= offset <= offset + pages <= file.pages:
            raise BadRange(
                offset * PAGE, (offset + pages) * PAGE, f"lies outside the file's {file.pages} pages"
            )
        start = self._room(pages) if at is None else at
        if taken := self.between(start, start + pages):
            raise BadRange(start * PAGE, (start + pages) * PAGE, f"overlaps {taken[0].start * PAGE:#x}")
        vma = Vma(start, start + pages, prot, flags, file, offset, accounted=account(pages))
        self.vmas.insert(bisect_right(self.vmas, start, key=lambda each: each.start), vma)
        self._merge(vma)
        return start

    def _room(self, pages: int) -> int:
        """The highest free range (mm/mmap.c vm_unmapped_area, top down)."""
        end = TOP
        for vma in reversed(self.vmas):
            if end - vma.end >= pages:
                break
            end = min(end, vma.start)
        if end - pages < BOTTOM:
            raise BadRange(0, pages * PAGE, "there is no room for so much")
        return end - pages

    def _merge(self, vma: Vma) -> None:
        """Joins a mapping that changed with its neighbours where they are alike (mm/vma.c vma_modify,
        vma_merge_existing_range). Others that are alike, as after a fork, stay apart."""
        at = self._index(vma)
        if at + 1 < len(self.vmas) and vma.joins(self.vmas[at + 1]):
            vma.join(self.vmas.pop(at + 1))
        if at > 0 and self.vmas[at - 1].joins(vma):
            self.vmas[at - 1].join(self.vmas.pop(at))

    def prepare_anon_vma(self, vma: Vma) -> None:
        """Before the first private page of a mapping: it has a neighbour's if that may be so, which lets them
        join later (mm/rmap.c __anon_vma_prepare, mm/vma.c find_mergeable_anon_vma)."""
        if not vma.anon_vma:
            at = self._index(vma)
            near = self.vmas[at + 1 : at + 2] + self.vmas[max(at - 1, 0) : at]
            lent = [each.lends(vma) for each in near]
            vma.anon_vma = next(filter(None, lent), 0) or new_anon_vma()

    def _index(self, vma: Vma) -> int:
        return bisect_right(self.vmas, vma.start, key=lambda each: each.start) - 1

    def cut(self, start: int, end: int) -> list[Vma]:
        """The mappings in [start, end) that must have no hole, split so that none reaches out of it (mm/vma.c
        __split_vma). Raises BadRange."""
        if self.hole(start, end) is not None:
            raise BadRange(start * PAGE, end * PAGE, "is not mapped throughout")
        return self.pieces(start, end)

    def hole(self, start: int, end: int) -> int | None:
        """The first page of [start, end) that is not mapped."""
        for vma in self.between(start, end):
            if vma.start > start:
                break
            start = vma.end
        return start if start < end else None

    def change(self, start: int, end: int, differs: Callable[[Vma], bool]) -> Iterator[Vma]:
        """The mappings in [start, end) that a call changes; those that do not differ are not even split. A
        hole ends the call, after what came before it. Raises BadRange (mm/mprotect.c do_mprotect_pkey,
        mm/mlock.c apply_vma_lock_flags, 6.18)."""
        hole = self.hole(start, end)
        reach = end if hole is None else hole
        for vma in self.between(start, reach) if start < reach else []:
            if differs(vma):
                for piece in self.pieces(max(vma.start, start), min(vma.end, reach)):
                    yield piece
                    self._merge(piece)
        if hole is not None:
            raise BadRange(hole * PAGE, end * PAGE, "is not mapped throughout")

    def pieces(self, start: int, end: int) -> list[Vma]:
        """The mappings in [start, end), which may have holes, split so that none reaches out of it."""
        for page in (start, end):
            vma = self.find(page)
            if vma is not None and vma.start < page:
                huge.split_at(self, page)
                at = self._index(vma)
                self.vmas[at : at + 1] = [vma.part(vma.start, page), vma.part(page, vma.end)]
        return self.between(start, end)

    def munmap(self, start: int, end: int) -> None:
        """Unmaps what is mapped of [start, end) (mm/vma.c do_vmi_munmap)."""
        with self.tlb.gathered():
            self._unmap(start, end)

    def _unmap(self, start: int, end: int) -> None:
        for vma in self.between(start, end):
            first, last = max(start, vma.start), min(end, vma.end)
            for part in self.cut(first, last):
                self.zap(part, part.start, part.end)
                self.vmas.pop(self._index(part))
                before = [each.end for each in self.vmas if each.end <= part.start]
                behind = [each.start for each in self.vmas if each.start >= part.end]
                floor, ceiling = max(before, default=0), min(behind, default=TASK_END // PAGE)
                self.tables.free(part.start, part.end, floor, ceiling)

    def mprotect(self, start: int, end: int, prot: Prot, account: Callable[[Vma], bool]) -> None:
        """Changes the protection; `account` says for each mapping whether it counts from then on. An
        anonymous page of this process alone becomes writable at once (mm/mprotect.c
        can_change_private_pte_writable, 5.19)."""
        with self.tlb.gathered():
            for vma in self.change(start, end, lambda vma: vma.prot != prot):
                vma.accounted = account(vma)
                own = vma.frame != NO_FRAME
                if not vma.shared:
                    own &= self.frames.exclusive[vma.frame]
                writable = own if prot & Prot.WRITE else np.zeros(vma.pages, bool)
                self.tlb.cleared |= needs_flush(vma, prot, writable)
                vma.prot, vma.writable = prot, writable

    def mremap(self, start: int, old: int, new: int, to: int) -> Vma:
        """Moves pages [start, start + old) to page `to`, where they become `new`; what is kept of them must
        be of one mapping; the entries move with them (mm/mremap.c check_prep_vma, mremap_to,
        move_page_tables, 6.18). Raises BadRange, OutOfFrames, GroupFull."""
        vma = self.find(start)
        if vma is None or vma.end < start + min(old, new):
            raise BadRange(start * PAGE, (start + old) * PAGE, "is not one mapping")
        if taken := self.between(to, to + new):
            raise BadRange(to * PAGE, (to + new) * PAGE, f"overlaps {taken[0].start * PAGE:#x}")
        if vma.file is not None and vma.offset + start - vma.start + new > vma.file.pages:
            raise Unmodelled("mappings that reach over the end of their file")
        self._room_for_tables(start, min(old, new), to)
        with self.tlb.gathered():  # the kernel flushes each table's entries apart (move_ptes)
            return self._move(start, old, new, to)

    def _move(self, start: int, old: int, new: int, to: int) -> Vma:
        if new < old:
            self._unmap(start + new, start + old)
            old = new
        (vma,) = self.pieces(start, start + old)
        huge.move(self, vma, to)
        moved = replace(vma, start=to, end=to + new, frame=np.empty(0, np.int32))
        moved.entries[:old], moved.writable[:old] = vma.frame, vma.writable
        self.tables.move(start, old, to)
        self.tlb.cleared |= bool((vma.frame != NO_FRAME).any())
        vma.clear()
        self.vmas.insert(bisect_right(self.vmas, to, key=lambda each: each.start), moved)
        self._unmap(start, start + old)
        return moved

    def _room_for_tables(self, start: int, pages: int, to: int) -> None:
        """Whether there are frames for those that a move needs at its end; huge pages take theirs along."""
        after = self.tables.copy()
        after.move(start, pages, to)
        more = after.pages - self.tables.pages
        if not (to - start) % HUGE:
            more -= len(huge.blocks_in(self.tables, start, start + pages))
        if more > 0:
            self.frames.admit(more)

    def reach(self, pages: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        """Makes the page tables for the entries of `pages`, which are in order. Raises OutOfFrames,
        GroupFull."""
        before = self.tables.pages
        self.tables.reach(pages)
        if made := self.tables.pages - before:
            self.frames.admit(made, taken=made)

    def advise(self, start: int, end: int, advice: Advice) -> None:
        """What madvise changes on mappings. POPULATE_* is the fault handler's. Holes are passed over, and
        told at the end (mm/madvise.c madvise_walk_vmas)."""
        with (
            self.tlb.gathered()
        ):  # madvise_batch_tlb_flush, 6.16; before, DONTNEED flushed mapping by mapping
            for vma in self.between(start, end):
                self._advise(vma, max(vma.start, start), min(vma.end, end), advice)
        if self.hole(start, end) is not None:
            raise BadRange(start * PAGE, end * PAGE, "is not mapped throughout")

    def _advise(self, vma: Vma, start: int, end: int, advice: Advice) -> None:
        if advice in (Advice.DONTNEED, Advice.FREE) and vma.locked:
            raise BadFlags(advice, "locked memory is kept")  # madvise_dontneed_free_valid_vma
        if advice is Advice.DONTNEED:
            self.zap(vma, start, end)
            if self.config.kernel >= (6, 14):
                self._reclaim(start, end)
            return
        if advice is Advice.FREE:
            self._free_lazily(vma, start, end)
            return
        if advice is Advice.WIPEONFORK and (vma.file is not None or vma.shared):
            raise BadFlags(advice, "only for private anonymous memory")
        name, value = _ADVISED[advice]
        if getattr(vma, name) != value:
            for piece in self.pieces(start, end):
                setattr(piece, name, value)
                self._merge(piece)

    def _reclaim(self, start: int, end: int) -> None:
        """A PTE table whose whole span was given up at once is freed (mm/pt_reclaim.c, x86, 6.14)."""
        for table in range(-(-start // HUGE), end // HUGE):
            self.tables.drop(table)

    def _free_lazily(self, vma: Vma, start: int, end: int) -> None:
        """Pages are marked as free to take when memory runs short, which it does not here: they stay, and
        stay in the RSS (mm/madvise.c madvise_free_single_vma)."""
        if vma.file is not None or vma.shared:
            raise BadFlags(Advice.FREE, "only for private anonymous memory")
        frames = vma.frame[start - vma.start : end - vma.start]
        if self.frames.head[frames[frames > ZERO_FRAME]].any():  # it would be split for good
            raise Unmodelled("MADV_FREE of huge pages")
        self.tlb.cleared |= bool((frames > ZERO_FRAME).any())  # entries are clean from now on

    def zap(self, vma: Vma, start: int, end: int) -> None:
        """Drops the entries of pages [start, end) of a mapping (mm/memory.c zap_pte_range)."""
        if self.tables.huge:
            huge.zap(self, vma, start, end)
        part = slice(start - vma.start, end - vma.start)
        frames = vma.frame[part]
        mapped = frames[frames != NO_FRAME].astype(np.intp)
        if mapped.size:
            self.tlb.cleared = True
            self.frames.unmap(mapped, self)
            vma.entries[part], vma.writable[part] = NO_FRAME, False

    def destroy(self) -> None:
        """Everything goes (mm/mmap.c exit_mmap). No process runs in it any more, but CPUs may have it loaded
        still (enter_lazy_tlb): a flush is asked for."""
        with self.tlb.gathered():
            for vma in self.vmas:
                self.zap(vma, vma.start, vma.end)
            self.vmas.clear()
            self.tables.become(Tables())

    def check_access(
        self, pages: np.ndarray[tuple[int], np.dtype[np.int64]], write: bool
    ) -> Iterator[tuple[Vma, np.ndarray[tuple[int], np.dtype[np.int64]]]]:
        """For sorted page numbers: each mapping with its pages, as indices into it. Raises Segfault at the
        first page that may not be touched, after those before it."""
        wanted = Prot.WRITE if write else Prot.READ
        found, seen = [], 0
        for vma in self.between(int(pages[0]), int(pages[-1]) + 1) if pages.size else []:
            first, last = np.searchsorted(pages, [vma.start, vma.end])
            if first == last:
                continue
            if first != seen or not vma.prot & wanted:
                break
            found.append((vma, pages[first:last] - vma.start))
            seen = int(last)
        yield from found
        if seen != pages.size:
            raise Segfault(int(pages[seen]) * PAGE, write)

    def commit(self) -> int:
        """Pages that this address space has committed."""
        return sum(vma.pages for vma in self.vmas if vma.accounted)

    def resident(self, vma: Vma) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
        """The frames that entries of `vma` map, the zero page left out."""
        return vma.frame[vma.frame > ZERO_FRAME].astype(np.intp)


_ADVISED = {
    Advice.DONTFORK: ("dont_fork", True),
    Advice.DOFORK: ("dont_fork", False),
    Advice.WIPEONFORK: ("wipe_on_fork", True),
    Advice.KEEPONFORK: ("wipe_on_fork", False),
    Advice.HUGEPAGE: ("hugepage", True),
    Advice.NOHUGEPAGE: ("hugepage", False),
}
