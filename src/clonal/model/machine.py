"""The machine: frames, files and processes, and what holds for all of them."""

from __future__ import annotations

import itertools
import weakref

from clonal.model import oom
from clonal.model.cgroup import Group
from clonal.model.commit import NEVER, check
from clonal.model.files import File
from clonal.model.flags import PAGE, Config, Kind
from clonal.model.frames import Frames
from clonal.model.process import Process
from clonal.model.space import AddressSpace

SIGKILL = 9


class Machine:
    """A computer with `config.ram` bytes of memory and no process yet."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config()
        self.frames = Frames(self.config.ram // PAGE, self.config.table)
        self.processes: dict[int, Process] = {}
        self._pids = itertools.count(1)
        self._files: list[weakref.ref[File]] = []  # those of memory
        self.frames.ledger.tables = self._tables_of

    def spawn(self, cpu: int = 0) -> Process:
        """A process with an empty address space. Raises BadMachine."""
        process = self.add(AddressSpace(self.frames, self.config), None)
        process.cpu = cpu
        return process

    def add(self, space: AddressSpace, parent: Process | None) -> Process:
        """A process with this address space: what fork and vfork use."""
        process = Process(self, next(self._pids), space, parent)
        self.processes[process.pid] = process
        return process

    def group(self, name: str, limit: int | None = None, parent: Group | None = None) -> Group:
        """A memory cgroup of at most `limit` pages, below another one or the root. `process.group = group`
        moves a process into it, its children are born there. Raises BadMachine."""
        return self.frames.ledger.add(name, limit, parent)

    def usage(self, group: Group) -> int:
        """Pages charged to a group: frames and page tables (memory.current)."""
        return group.charged + self._tables_of(group)

    def kill_for_memory(self, group: Group | None = None) -> Process | None:
        """What the OOM killer does once, for the whole machine or for a group that is full: the process that
        it took, with all that share its memory, or None if there is none to take (mm/oom_kill.c
        out_of_memory, oom_kill_process, __oom_kill_process)."""
        alive = self._alive()
        inside = [each for each in alive if group is None or each.group.within(group)]
        taken = oom.victim(inside, self._oom_total(group))
        if taken is not None:
            taken.group.kills += 1
            space = taken.space
            for process in alive:
                if process.space is space and process.oom_score_adj != oom.IMMUNE:
                    process.exit(-SIGKILL)
        return taken

    def _oom_total(self, group: Group | None) -> int:
        """What points are reckoned against (constrained_alloc, mem_cgroup_get_max)."""
        memory = self.config.ram // PAGE if group is None or group.limit is None else group.limit
        return max(memory + self.config.swap // PAGE, 1)

    def _alive(self) -> list[Process]:
        return [process for process in self.processes.values() if process.exit_code is None]

    def _tables_of(self, group: Group) -> int:
        """Page tables of the processes in a group and below it, in pages: they are charged too
        (GFP_PGTABLE_USER). The kernel charges those made by fork to the parent's group."""
        spaces = {id(each.space): each.space for each in self._alive() if each.group.within(group)}
        return sum(space.tables.bytes // PAGE for space in spaces.values())

    @property
    def tlb_flushes(self) -> int:
        """Flushes of TLBs that were asked for, by all address spaces that there ever were."""
        return self.frames.flushes

    def file(self, pages: int, cached: bool = True) -> File:
        """A file, by default with all its pages in the page cache."""
        return File(self.frames, pages, Kind.FILE, cached)

    def memfd(self, pages: int) -> File:
        """A memory file (memfd_create(2))."""
        return self._known(File(self.frames, pages, Kind.SHMEM))

    def promise(self, pages: int, total_vm: int, besides: int = 0) -> None:
        """Whether `pages` may be committed, `besides` others about to be. Raises CommitRefused."""
        committed = self.committed + besides if self.config.overcommit == NEVER else 0
        check(self.config, committed, pages, total_vm)

    def shared_memory(self, pages: int) -> File:
        """What is behind shared anonymous memory: a memory file that is committed in full from the start."""
        return self._known(File(self.frames, pages, Kind.SHMEM, ahead=True))

    def _known(self, file: File) -> File:
        self._files.append(weakref.ref(file))
        return file

    @property
    def committed(self) -> int:
        """Pages committed by all address spaces and memory files (Committed_AS)."""
        spaces = {id(p.space): p.space for p in self._alive()}
        self._files = [each for each in self._files if each() is not None]
        files = sum(file.committed for each in self._files if (file := each()) is not None)
        return files + sum(space.commit() for space in spaces.values())
