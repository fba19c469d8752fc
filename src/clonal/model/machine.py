"""The machine: frames, files and processes, and what holds for all of them."""

from __future__ import annotations

import itertools

from clonal.model.files import File
from clonal.model.flags import PAGE, Config, Kind
from clonal.model.frames import Frames
from clonal.model.process import Process
from clonal.model.space import AddressSpace


class Machine:
    """A computer with `config.ram` bytes of memory and no process yet."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config()
        self.frames = Frames(self.config.ram // PAGE)
        self.processes: dict[int, Process] = {}
        self._pids = itertools.count(1)

    def spawn(self) -> Process:
        """A process with an empty address space."""
        return self.add(AddressSpace(self.frames), None)

    def add(self, space: AddressSpace, parent: Process | None) -> Process:
        """A process with this address space: what fork and vfork use."""
        process = Process(self, next(self._pids), space, parent)
        self.processes[process.pid] = process
        return process

    def file(self, pages: int, cached: bool = True) -> File:
        """A file, by default with all its pages in the page cache."""
        return File(self.frames, pages, Kind.FILE, cached)

    def memfd(self, pages: int) -> File:
        """A memory file (memfd_create(2), or what is behind shared anonymous memory)."""
        return File(self.frames, pages, Kind.SHMEM)

    @property
    def committed(self) -> int:
        """Pages committed by all address spaces (Committed_AS), touched or not."""
        spaces = {id(p.space): p.space for p in self.processes.values() if p.exit_code is None}
        return sum(space.commit() for space in spaces.values())
