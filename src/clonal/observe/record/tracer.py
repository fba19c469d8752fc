"""Follows a family of processes by what the eBPF program tells, and writes the recording."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from clonal.observe.record.events import EVENT, Events, Happened, State, Told
from clonal.observe.record.facts import command_line, living
from clonal.observe.record.file import Writer
from clonal.observe.record.interpreters import Files
from clonal.observe.record.tracked import Image, Tracked, file_name, split

if TYPE_CHECKING:
    from clonal._bpf import Program

TRIES = 100  # to find an interpreter after a program was executed: the loader maps its library a moment later


class Tracer:
    """The processes that are followed, by number."""

    def __init__(self, program: Program, writer: Writer) -> None:
        self.program, self.writer = program, writer
        self.processes: dict[int, Tracked] = {}
        self._files = Files()
        self._ended: set[int] = set()

    # ---- by hand ----

    def follow(self, pid: int, parent: int) -> None:
        """A running process: all that it copies from now on is recorded."""
        before = self.processes.get(parent)
        made = self._new(pid, parent, before.generation + 1 if before else 0)
        self._find(made)
        if before is not None and made.runs_as(before):
            made.image = before.image
            made.image.pids[pid] = None
        self.program.follow(pid, State.RECORDED)
        made.begins(self.writer, time.monotonic_ns(), running=True)
        if not living([pid]):
            self._ended.add(pid)
            self._exit(pid, time.monotonic_ns(), 0, 0)

    def has_ended(self, pid: int) -> bool:
        """Before it could be followed."""
        return pid in self._ended

    def drain(self) -> None:
        """Takes all that there is."""
        while True:
            raw, frames = self.program.read()
            if not raw:
                break
            events = np.frombuffer(raw, EVENT)
            self._take(events, split(events, frames))
        for process in self._sought():
            self._find(process)

    @property
    def seeking(self) -> bool:
        """Whether it is to be looked soon for an interpreter that a program may just be loading."""
        return bool(self._sought())

    def _sought(self) -> list[Tracked]:
        each = self.processes.values()
        return [process for process in each if not process.image.interpreter and process.tries < TRIES]

    def finish(self) -> None:
        """The end of the recording: of those that go on, too."""
        self.drain()
        for pid, process in self.processes.items():
            if (counts := self.program.counts(pid)) is not None:
                process.counts(self.writer, *counts)

    # ---- events ----

    def _take(self, events: Events, frames: list[bytes]) -> None:
        copies = _by_process(events)
        for row in np.flatnonzero(events["kind"] != Happened.COPY).tolist():
            kind, pid, child, flags = (int(events[name][row]) for name in ("kind", "pid", "child", "flags"))
            happened = int(events["time"][row])
            if kind == Happened.FORK:
                self._fork(pid, child, flags, happened)
            elif kind == Happened.OBJECT:
                if pid in self.processes:
                    self.processes[pid].image.saw(events[row], frames[row])
            elif flags & Told.VFORKED:  # the child had borrowed its parent's memory
                if kind == Happened.EXEC:
                    self._exec(pid, events[row])
            else:
                before = _cut(copies, pid, row)
                self._copies(pid, events, before, frames, gone=True)
                if kind == Happened.EXIT:
                    self._exit(pid, happened, int(events["fresh"][row]), int(events["lost"][row]))
                else:
                    self._exec(pid, events[row])
        for pid, rows in copies.items():
            self._copies(pid, events, rows, frames, gone=False)

    def _copies(self, pid: int, events: Events, rows: list[int], frames: list[bytes], gone: bool) -> None:
        process = self.processes.get(pid)
        if process is not None and rows:
            some = [frames[row] for row in rows]
            process.copies(self.writer, self._files, events[rows], some, gone)

    def _fork(self, pid: int, child: int, flags: int, happened: int) -> None:
        if pid not in self.processes:  # the recorder itself
            self._new(child, pid, 0)
            return
        parent = self.processes[pid]
        if flags & Told.VFORKED:
            return
        if parent.image.interpreter is None:
            self._find(parent)
        made = self.processes[child] = Tracked(child, pid, parent.generation + 1, parent.image)
        parent.image.pids[child] = None
        if parent.image.interpreter is not None:
            self.program.python(child, parent.image.interpreter.known)
        parent.look()
        made.look(parent)
        parent.begins(self.writer, happened, child=made)
        made.begins(self.writer, happened, parent)

    def _exec(self, pid: int, event: Events) -> None:
        process, name = self.processes.get(pid), file_name(event)
        argv = command_line(pid) or [name]
        if process is not None:
            happened, fresh, lost = (int(event[field]) for field in ("time", "fresh", "lost"))
            process.ends(self.writer, happened, fresh, lost, argv)
            self._leave(process)
        made = self._new(pid, process.parent if process else 0, 0)
        made.executed(argv, self._files.program(name, int(event["address"]), int(event["ip"])))

    def _exit(self, pid: int, happened: int, fresh: int, lost: int) -> None:
        process = self.processes.pop(pid, None)
        if process is not None:
            process.ends(self.writer, happened, fresh, lost)
            self._leave(process)

    def _leave(self, process: Tracked) -> None:
        process.image.pids.pop(process.pid, None)
        self.processes.pop(process.pid, None)

    def _new(self, pid: int, parent: int, generation: int) -> Tracked:
        self.program.python(pid, None)
        made = self.processes[pid] = Tracked(pid, parent, generation, Image(pid))
        return made

    def _find(self, process: Tracked) -> None:
        """Its interpreter, of which the program and all that run the same are told."""
        process.tries += 1
        if process.seek(self._files) and process.image.interpreter is not None:
            for pid in process.image.pids:
                self.program.python(pid, process.image.interpreter.known)


def _by_process(events: Events) -> dict[int, list[int]]:
    """The rows that are copies, in order, by process."""
    found: dict[int, list[int]] = {}
    rows = np.flatnonzero(events["kind"] == Happened.COPY)
    for row, pid in zip(rows.tolist(), events["pid"][rows].tolist(), strict=True):
        found.setdefault(pid, []).append(row)
    return found


def _cut(copies: dict[int, list[int]], pid: int, row: int) -> list[int]:
    """Takes out the copies of a process before this row."""
    rows = copies.pop(pid, [])
    before = [each for each in rows if each < row]
    if rows[len(before) :]:
        copies[pid] = rows[len(before) :]
    return before
