"""A process of the model: system calls and accesses, in bytes as the kernel has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from clonal.model import collapse, faults
from clonal.model.cgroup import Group
from clonal.model.commit import accountable
from clonal.model.errors import (
    BadFlags,
    BadRange,
    CommitRefused,
    GroupFull,
    NoSuchProcess,
    OutOfFrames,
    WouldBlock,
)
from clonal.model.faults import Faults
from clonal.model.files import File
from clonal.model.flags import PAGE, Advice, Clone, Kind, Map, Prot, known
from clonal.model.fork import ForkWork, duplicate
from clonal.model.frames import NO_FRAME
from clonal.model.huge import large_entries
from clonal.model.maps import line
from clonal.model.numa import DEFAULT
from clonal.model.pin import Pin, frames_of
from clonal.model.placement import Placed
from clonal.model.sets import ascending
from clonal.model.space import AddressSpace, page_range
from clonal.model.undo import undone_if_full
from clonal.model.vma import Vma

if TYPE_CHECKING:
    from clonal.model.machine import Machine

PageSet = npt.ArrayLike


class Rss(NamedTuple):
    """Resident pages by kind, as in /proc/PID/status. The zero page is in none."""

    anon: int
    file: int
    shmem: int


class Pages(NamedTuple):
    """What the entries of a range map, page by page."""

    kind: npt.NDArray[np.uint8]  # of Kind
    frame: npt.NDArray[np.int32]  # -1: none
    exclusive: npt.NDArray[np.bool_]  # mapped by this process alone (pagemap's bit 56)
    writable: npt.NDArray[np.bool_]  # a write does not fault
    huge: npt.NDArray[np.bool_]  # mapped with its neighbours by one entry of the middle level


class Process(Placed):
    """One process. Made by `Machine.spawn()` and by `fork()`."""

    def __init__(self, machine: Machine, pid: int, space: AddressSpace, parent: Process | None) -> None:
        self.machine, self.pid, self.parent = machine, pid, parent
        self.faults = Faults()  # all since it began
        self.fork_work = ForkWork()  # of its latest fork
        self.exit_code: int | None = None
        self.oom_score_adj: int = parent.oom_score_adj if parent is not None else 0
        self.borrows = False  # its parent's memory, by vfork
        self.group: Group = parent.group if parent is not None else machine.frames.ledger.root
        self._space: AddressSpace | None = space
        self._place(*((parent.cpu, parent.policy) if parent is not None else (0, DEFAULT)))

    @property
    def space(self) -> AddressSpace:
        """Its address space. Raises NoSuchProcess when it has ended."""
        if self._space is None:
            raise NoSuchProcess(self.pid)
        return self._space

    # ---- memory ----

    def mmap(
        self,
        length: int,
        prot: Prot = Prot.RW,
        flags: Map = Map.PRIVATE | Map.ANONYMOUS,
        file: File | None = None,
        offset: int = 0,
        at: int | None = None,
    ) -> int:
        """Maps `length` bytes and returns the address. `at` must be free. Raises BadRange, BadFlags."""
        start, end = page_range(at if at is not None else 1 << 20, length)
        prot, flags = known(Prot(prot)), known(Map(flags))
        if flags & Map.SHARED and flags & Map.ANONYMOUS:  # a memory file without a name: shmem_zero_setup
            self._commit(end - start)
            flags, file = flags & ~Map.ANONYMOUS, self.machine.shared_memory(end - start)
        wanted = None if at is None else start

        def account(pages: int) -> bool:
            counts = accountable(self.machine.config, prot, flags)
            self._commit(pages if counts else 0)
            return counts

        first = self.space.mmap(end - start, prot, flags, file, offset // PAGE, wanted, account)
        if flags & Map.POPULATE:
            try:
                self._populate(first, first + end - start, bool(prot & Prot.WRITE))
            except (OutOfFrames, GroupFull):
                self.space.munmap(first, first + end - start)
                raise
        return first * PAGE

    def munmap(self, address: int, length: int) -> None:
        """munmap(2). Raises BadRange."""
        self.space.munmap(*page_range(address, length))

    def mremap(self, address: int, old: int, new: int, at: int) -> int:
        """mremap(2) with MREMAP_MAYMOVE | MREMAP_FIXED: `old` bytes move to `at` and become `new`. Raises
        BadRange where they are not of one mapping, CommitRefused."""
        start, end = page_range(address, old)
        to, to_end = page_range(at, new)
        vma = self.space.find(start)
        self._commit(to_end - to if vma is not None and vma.accounted else 0)
        self._run()
        moved = self.space.mremap(start, end - start, to_end - to, to)
        if moved.locked and moved.prot and new > old:
            write = bool(moved.prot & Prot.WRITE and not moved.shared)
            self._touch(np.arange(to + end - start, to_end), write)
        return at

    def mprotect(self, address: int, length: int, prot: Prot) -> None:
        """mprotect(2). Raises BadFlags, BadRange where something is not mapped."""
        start, end = page_range(address, length)
        prot = known(Prot(prot))
        locked = [vma for vma in self.space.between(start, end) if vma.locked and not vma.prot & Prot.WRITE]
        ranges = [(max(vma.start, start), min(vma.end, end)) for vma in locked if not vma.shared]
        self.space.mprotect(start, end, prot, lambda vma: self._accounts(vma, prot))
        for first, last in ranges if prot & Prot.WRITE else []:  # mprotect_fixup: locked memory is copied now
            self._touch(np.arange(first, last), write=True)

    def _accounts(self, vma: Vma, prot: Prot) -> bool:
        """mm/mprotect.c mprotect_fixup: what becomes writable is charged; what no longer is stays so, unless
        it is anonymous and nothing was written."""
        if not prot & Prot.WRITE:
            return vma.accounted and (vma.file is not None or vma.anon_vma != 0)
        counts = vma.accounted or accountable(self.machine.config, prot, vma.flags)
        self._commit(vma.pages if counts and not vma.accounted else 0)
        return counts

    def _commit(self, pages: int) -> None:
        if pages:
            self.machine.promise(pages, self.space.total_vm)

    def madvise(self, address: int, length: int, advice: Advice) -> Faults:
        """madvise(2). Raises BadRange, BadFlags."""
        start, end = page_range(address, length)
        if advice not in Advice.__members__.values():
            raise BadFlags(advice, "an advice that the model does not have")
        advice = Advice(advice)
        if advice in (Advice.POPULATE_READ, Advice.POPULATE_WRITE):
            return self._populate(start, end, advice is Advice.POPULATE_WRITE)
        if advice is Advice.COLLAPSE:
            return self._collapse(start, end)
        self.space.advise(start, end, advice)
        return Faults()

    def _collapse(self, start: int, end: int) -> Faults:
        """Huge pages where there are small ones, in each mapping; a hole is told at the end."""
        self._run()
        made = Faults()
        for vma in self.space.between(start, end):
            first, last = max(vma.start, start), min(vma.end, end)
            made += Faults(copied=collapse.collapse(self.space, vma, first, last))
        if (hole := self.space.hole(start, end)) is not None:
            raise BadRange(hole * PAGE, end * PAGE, "is not mapped throughout")
        return made

    def brk(self, address: int = 0) -> int:
        """brk(2): moves the end of the heap; where it is then, unchanged if it cannot move (mm/mmap.c)."""
        space = self.space
        first, last = -(-space.brk // PAGE), -(-address // PAGE)
        if address >= space.heap:
            try:
                if last > first:
                    self.mmap((last - first) * PAGE, at=first * PAGE)
                elif last < first:
                    space.munmap(last, first)
            except (BadRange, CommitRefused):
                return space.brk
            space.brk = address
        return space.brk

    def mlock(self, address: int, length: int) -> Faults:
        """mlock(2): present from now on, written to where that is allowed. A child does not inherit it."""
        start, end = page_range(address, length)
        for vma in self.space.change(start, end, lambda vma: not vma.locked):
            vma.locked = True
        made = Faults()
        for vma in self.space.between(start, end):  # mm/gup.c populate_vma_page_range, 6.18
            if not vma.prot:
                raise BadRange(vma.start * PAGE, vma.end * PAGE, "may not be touched, so not be locked")
            write = bool(vma.prot & Prot.WRITE and not vma.shared)
            made += self._touch(np.arange(max(vma.start, start), min(vma.end, end)), write)
        return made

    def munlock(self, address: int, length: int) -> None:
        """munlock(2)."""
        for vma in self.space.change(*page_range(address, length), lambda vma: vma.locked):
            vma.locked = False

    def pin(self, address: int, length: int) -> Pin:
        """Pins pages for a device that writes, as a fixed io_uring buffer does (pin_user_pages, FOLL_WRITE |
        FOLL_LONGTERM). Raises Segfault, BadFlags."""
        start, end = page_range(address, length)
        made = self._touch(np.arange(start, end), write=True)
        return Pin(self.machine.frames, frames_of(self.space, start, end), made)

    def _populate(self, start: int, end: int, write: bool) -> Faults:
        """mm/madvise.c madvise_populate, mm/gup.c faultin_page_range, 6.18."""
        hole = self.space.hole(start, end)
        made = Faults()
        for vma in self.space.between(start, end if hole is None else hole):
            if not vma.prot & (Prot.WRITE if write else Prot.READ):
                raise BadFlags(vma.prot, "the protection does not allow to populate")
            made += self._touch(np.arange(max(vma.start, start), min(vma.end, end)), write)
        if hole is not None:
            raise BadRange(hole * PAGE, end * PAGE, "is not mapped throughout")
        return made

    # ---- accesses ----

    def read(self, address: int, length: int = 1) -> Faults:
        """Reads a byte of each page of the range. Raises Segfault, OutOfFrames."""
        return self._touch(np.arange(address // PAGE, -(-(address + length) // PAGE)), write=False)

    def write(self, address: int, length: int = 1) -> Faults:
        """Writes a byte of each page of the range. Raises Segfault, OutOfFrames."""
        return self._touch(np.arange(address // PAGE, -(-(address + length) // PAGE)), write=True)

    def touch(self, pages: PageSet, write: bool = True) -> Faults:
        """Touches any set of page numbers, in ascending order. Raises Segfault, OutOfFrames."""
        return self._touch(ascending(pages), write)

    def _run(self) -> None:
        """It is what the kernel calls `current`: memory is taken for it."""
        frames = self.machine.frames
        frames.ledger.payer, frames.banks.here, frames.banks.task = self.group, self.node, self.policy

    @property
    def room(self) -> int:
        """How many more frames it could have."""
        self._run()
        return self.machine.frames.room

    def _touch(self, pages: npt.NDArray[np.int64], write: bool) -> Faults:
        before, made = self.faults, Faults()
        self._run()
        with undone_if_full(self.space, pages):
            try:
                for vma, index in self.space.check_access(pages, write):
                    here = faults.touch(self.space, vma, index, write, self.machine.config)
                    self.faults += here
                    made += here
            except (OutOfFrames, GroupFull):
                self.faults = before
                raise
        return made

    # ---- life ----

    def fork(self) -> Process:
        """fork(2): a child with the same memory, shared until one of the two writes. Raises CommitRefused:
        dup_mmap charges mapping by mapping."""
        self._run()
        promised = 0
        for vma in self.space.vmas:
            if vma.accounted and not vma.dont_fork:
                self.machine.promise(vma.pages, self.space.total_vm, promised)
                promised += vma.pages
        space, self.fork_work = duplicate(self.space)
        return self.machine.add(space, self)

    def vfork(self) -> Process:
        """vfork(2): a child that borrows this address space until it execs or exits."""
        self.space.users += 1
        child = self.machine.add(self.space, self)
        child.borrows = True
        return child

    def clone3(self, flags: Clone) -> Process:
        """clone3(2): by its flags fork, vfork, or one that shares the memory for good. Raises BadFlags."""
        if known(Clone(flags)) == 0:
            return self.fork()
        if not flags & Clone.VM:
            raise BadFlags(flags, "a parent that waits for a child with memory of its own is not modelled")
        child = self.vfork()
        child.borrows = bool(flags & Clone.VFORK)
        return child

    def exec(self) -> None:
        """execve(2): a new, empty address space; the old one goes with its last user."""
        old, self.borrows = self.space, False
        self._space = AddressSpace(self.machine.frames, self.machine.config)
        self._leave(old)

    def exit(self, code: int = 0) -> None:
        """exit(2)."""
        space = self.space
        self._space, self.exit_code = None, code
        self._leave(space)

    @staticmethod
    def _leave(space: AddressSpace) -> None:
        space.users -= 1
        if not space.users:
            space.destroy()

    def wait(self, child: Process) -> int:
        """wait(2) for a child that has ended: its exit code. Raises WouldBlock."""
        if child.parent is not self:
            raise WouldBlock(self.pid, child.pid, "is no child of it")
        if child.exit_code is None:
            raise WouldBlock(self.pid, child.pid, "has not ended")
        self.machine.processes.pop(child.pid, None)
        return child.exit_code

    # ---- what there is ----

    def pages(self, address: int, length: int) -> Pages:
        """What is mapped in the range, page by page; nothing where there is no mapping."""
        start, end = page_range(address, length)
        frame = np.full(end - start, NO_FRAME, np.int32)
        writable, huge = np.zeros(end - start, bool), np.zeros(end - start, bool)
        for vma in self.space.between(start, end):
            first, last = max(start, vma.start), min(end, vma.end)
            if self.space.tables.huge:
                large = large_entries(self.space.tables, vma)
                huge[first - start : last - start] = large[first - vma.start : last - vma.start]
            frame[first - start : last - start] = vma.frame[first - vma.start : last - vma.start]
            writable[first - start : last - start] = vma.writable[first - vma.start : last - vma.start]
        frames, present = self.machine.frames, frame != NO_FRAME
        kind = np.where(present, frames.kind[frame], np.uint8(Kind.NONE)).astype(np.uint8)
        exclusive = present & (frames.mapped[frame] == 1)
        return Pages(kind, frame, exclusive, writable, huge)

    @property
    def rss(self) -> Rss:
        """Resident pages by kind."""
        kinds = np.zeros(len(Kind), np.int64)
        for vma in self.space.vmas:
            frames = self.space.resident(vma)
            kinds += np.bincount(self.machine.frames.kind[frames], minlength=len(Kind))
        return Rss(int(kinds[Kind.ANON]), int(kinds[Kind.FILE]), int(kinds[Kind.SHMEM]))

    @property
    def page_table_bytes(self) -> int:
        """VmPTE."""
        return self.space.tables.bytes

    @property
    def tlb_flushes(self) -> int:
        """How often the kernel asked for a flush of this address space's TLBs. What exec and exit of its last
        user ask for is in the machine's count only."""
        return self.space.tlb.flushes

    def pss(self) -> float:
        """Bytes, each page divided by how many entries map it (/proc/PID/smaps: Pss)."""
        return PAGE * sum(float((1 / self._shares(vma)).sum()) for vma in self.space.vmas)

    def uss(self) -> int:
        """Bytes in pages that no other process maps."""
        return PAGE * sum(int((self._shares(vma) == 1).sum()) for vma in self.space.vmas)

    def _shares(self, vma: Vma) -> npt.NDArray[np.int32]:
        return self.machine.frames.mapped[self.space.resident(vma)]

    def maps(self) -> str:
        """As /proc/PID/maps, with its first 64 pages: `.` none, `0` the zero page, `w` writable, `c` copied
        (or reused) when written to, `r` any other; `W`, `C` and `R` are pages of huge ones."""
        return "\n".join(line(self.space, vma) for vma in self.space.vmas)
