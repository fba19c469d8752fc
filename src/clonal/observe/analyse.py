"""From a recording to rows: each copied page with its process, line, cause, type and kind of memory."""

from __future__ import annotations

import bisect
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clonal.kernel import procfs
from clonal.observe import programs
from clonal.observe.copies import OUTCOMES, OUTER, REUSED, UNKNOWN, Copies, Copy, Frame, Stack, What
from clonal.observe.kinds import MemoryKind, Region, classify
from clonal.observe.record import fields
from clonal.observe.record.file import MAGIC, RECORD, BadRecording, Chunk, Kind, Reader

__all__ = ["OUTCOMES", "REUSED", "UNKNOWN", "Copy", "Frame", "Stack", "What"]  # of what is read here

FAULT = struct.Struct("<QQQIIIBBBB")
assert FAULT.size == RECORD
CAUSES = ("unknown", "reference count", "gc header", "allocator metadata", "interpreter internals", "data")
KERNEL = ("kernel", "system call")  # who wrote, where no code of the process did
DATA, ALLOCATOR = CAUSES.index("data"), CAUSES.index("allocator metadata")
INTERNALS = CAUSES.index("interpreter internals")
BY_HOOK = ("sigtrap", "snapshot")  # backends that record processes which load the hook
OTHERS = "--backend bpf records any program; python -S, -I and -E leave out the hook"
OWN = "clonal/observe/record/hook.py"
STRINGS = ("mem", "str", "wcs", "wmem", "bcopy", "bzero", "__mem", "__str", "explicit_bzero")
NOWHERE = Region(0, 0, MemoryKind.OTHER, "", -1)


@dataclass
class Process:
    """One recorded process."""

    pid: int
    parent: int
    generation: int
    argv: list[str]
    shared: int  # pages that it shared when recording began
    own: int  # pages that it had copied before
    began: int
    ended: int | None = None  # None: it was killed, or the recording ends before it
    failed: str | None = None
    lost: int = 0  # faults that found no room
    fresh: int = 0  # first touches, which copy nothing
    executes: list[str] = field(default_factory=list)  # the program it ran in its place, and its arguments
    unwatched: int = 0  # pages of which the kernel does not tell what it writes to them in system calls
    unwatched_why: int = 0  # the errno
    whole: bool = True  # False: it closed the recording's descriptors, or opened others in their place
    spawned: bool = False  # by subprocess, which executes where nothing can be written out any more


@dataclass
class Recording:
    """All of a file."""

    path: str
    command: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    backend: str = ""
    from_outside: bool = False  # of processes that ran already
    wall: float = 0.0  # when it began, seconds since 1970
    depth: int = 0  # frames of the longest stack that is recorded, 0: not known
    status: int | None = None  # None: the recorder itself was killed
    hooked: int = 0  # Python processes that would have been recorded from a fork on
    processes: dict[int, Process] = field(default_factory=dict)
    copies: Copies = field(default_factory=Copies)
    truncated: bool = False
    damaged: int = 0  # stretches of the file that were passed over
    missed: int = 0  # faults that were in them, as far as the chunks after them tell
    unreadable: int = 0  # chunks that say what is not known here

    @property
    def empty(self) -> str:
        """Why no process was recorded, and what to do; "" if some were."""
        if self.processes:
            return ""
        if self.hooked:
            processes = "1 Python process" if self.hooked == 1 else f"{self.hooked} Python processes"
            return f"{processes} ran, but none forked: no page was shared"
        if self.backend in BY_HOOK:
            return (
                f"no Python process was hooked in, and the {self.backend} backend records no others: {OTHERS}"
            )
        return "no process forked: no page was shared"

    @property
    def by_recording(self) -> list[Copy]:
        """Pages copied because the program was recorded."""
        return [copy for copy in self.copies if copy.own and copy.outcome != OUTCOMES[REUSED]]

    def copied(self, own: bool) -> int:
        """How many those of the recording itself, or of the program, are."""
        counts = self.copies.counts()
        return sum(pages for _, kind, pages in counts if kind.copied and kind.own is own)

    @property
    def by_program(self) -> list[Copy]:
        """Pages copied by the recorded program, not by its being recorded."""
        return [copy for copy in self.copies if not copy.own and copy.outcome != OUTCOMES[REUSED]]


def load(path: Path | str) -> Recording:
    """Raises BadRecording, OSError."""
    _refuse(path)
    reader, found = Reader(path), Recording(str(path))
    contexts: dict[int, _Context] = {}
    for chunk in reader:
        try:
            fields.check(chunk.kind, chunk.data)
            _take(found, contexts, chunk)
        except (LookupError, TypeError, ValueError, AttributeError, struct.error):
            found.unreadable += 1
    found.truncated, found.damaged = reader.truncated, reader.damaged
    found.unreadable += reader.unknown
    if not found.command and not found.processes:
        raise BadRecording(str(path), "this recording has no beginning")
    return found


def _refuse(path: Path | str) -> None:
    """What the reader would take for another kind of file. Raises BadRecording, OSError."""
    with open(path, "rb") as file:
        magic = file.read(len(MAGIC))
    if not magic:
        raise BadRecording(str(path), "this file is empty: nothing was recorded")
    if magic != MAGIC and magic[:3] == MAGIC[:3]:
        raise BadRecording(str(path), "another version of clonal made this recording; read it with that one")


def _take(found: Recording, contexts: dict[int, _Context], chunk: Chunk) -> None:
    data = chunk.data
    if chunk.kind is Kind.BEGIN:
        found.command, found.machine, found.backend = data["command"], data["machine"], data["backend"]
        found.wall, found.depth = data.get("wall", 0.0), data.get("depth", 0)
        found.from_outside = bool(data.get("pids"))
    elif chunk.kind is Kind.HOOKED:
        found.hooked += 1
    elif chunk.kind is Kind.PROCESS:
        contexts[chunk.pid] = _Context(found, data.get("before", 0))
        found.processes[chunk.pid] = _process(chunk.pid, data, found.processes.get(chunk.pid))
    elif chunk.kind is Kind.END and not chunk.pid:
        found.status = data["status"]
    elif chunk.kind is Kind.END and chunk.pid in found.processes:
        found.processes[chunk.pid].ended = data["time"]
        found.processes[chunk.pid].lost += data["dropped"]
        found.processes[chunk.pid].whole &= data.get("whole", True)
        found.processes[chunk.pid].executes = data.get("executes") or found.processes[chunk.pid].executes
    elif chunk.kind is Kind.FAULTS:
        context = contexts.setdefault(chunk.pid, _Context(found))
        context.faults(chunk, found.copies)
        process = found.processes.setdefault(chunk.pid, _without_beginning(chunk))
        process.lost += data["lost"]
        process.fresh += data["fresh"]
        found.missed += context.missed


def _process(pid: int, data: dict[str, Any], before: Process | None) -> Process:
    """One that begins. `before`: the same process until it ran another program, whose counts go on."""
    made = Process(
        pid, data["parent"], data["generation"], data["argv"], data.get("shared", 0), data.get("own", 0),
        data["time"], failed=data.get("failed"), spawned=data.get("spawned", False),
    )  # fmt: skip
    made.unwatched, made.unwatched_why = data.get("unwatched", (0, 0))
    if before is not None:
        made.generation = max(made.generation, before.generation)
        made.lost, made.fresh, made.executes = before.lost, before.fresh, before.executes
    return made


def _without_beginning(chunk: Chunk) -> Process:
    """One of which the first chunk is damaged."""
    began = FAULT.unpack_from(chunk.records)[0] if chunk.records else 0
    return Process(chunk.pid, 0, 0, [], 0, 0, began)


class _Context:
    """What the chunks of one process build on: its stacks, types, symbols and mappings so far."""

    def __init__(self, recording: Recording, faults: int = 0) -> None:
        self._traps, self._depth = recording.backend != "snapshot", recording.depth
        self._stacks: dict[int, Stack] = {}  # by number, from 1
        self._types: dict[int, str] = {}
        self._symbols: dict[int, tuple[str, str]] = {}
        self._maps = Maps("")
        self._frames: dict[Frame, Frame] = {}
        self._known: dict[tuple[int, ...], int] = {}  # records under these mappings: their number in Copies
        self._faults = faults  # of those that the process numbers itself, so far
        self.missed = 0  # faults before the last chunk that are not here

    def faults(self, chunk: Chunk, copies: Copies) -> None:
        """Adds those of a chunk. Records that are alike, but for time and address, are looked at once."""
        if chunk.data["maps"] is not None:
            self._maps, self._known = Maps(chunk.data["maps"]), {}
        known, place = self._known, self._maps.place
        for time, address, ip, _, stack, kind, cause, outcome, in_pool, _ in self._records(chunk):
            key = (ip, stack, kind, cause, outcome, -1 if in_pool else place(address))
            number = known.get(key)
            if number is None:
                what = self._what(chunk.pid, address, ip, stack, kind, cause, outcome, in_pool)
                number = known[key] = copies.add(what)
            copies.what.append(number)
            copies.times.append(time)
            copies.addresses.append(address)

    def _records(self, chunk: Chunk) -> Iterator[tuple[int, ...]]:
        """Those that are new, with what they refer to."""
        data = chunk.data
        stack, type_, fault = data.get("after", (len(self._stacks), len(self._types), self._faults))
        self._stacks |= {at: self._stack(each) for at, each in enumerate(data["stacks"], stack + 1)}
        self._types |= dict(enumerate(data["types"], type_ + 1))
        for address, symbol in data["symbols"].items():
            self._symbols[int(address, 16)] = (symbol[0] or "", symbol[1] or "") if symbol else ("", "")
        again = max(self._faults - fault, 0)  # the process was killed before it knew that they were written
        self.missed = max(fault - self._faults, 0)
        if "after" in data:
            self._faults = max(self._faults, fault + len(chunk.records) // RECORD)
        return FAULT.iter_unpack(chunk.records[again * RECORD :])

    def _stack(self, told: list[Any]) -> Stack:
        """Each line is kept once."""
        frames = [*map(_frame, told), *[OUTER] * (0 < self._depth <= len(told))]
        return tuple(self._frames.setdefault(frame, frame) for frame in frames)

    def _what(
        self, pid: int, address: int, ip: int, stack: int, type_: int, cause: int, outcome: int, in_pool: int
    ) -> What:
        frames = self._stacks.get(stack, ())
        library, symbol = self._symbols.get(ip, ("", ""))
        if not ip and self._traps:
            library, symbol = KERNEL
        region = self._maps.at(address)
        kind = MemoryKind.OBJECTS if in_pool else region.kind
        if cause == DATA and _allocates(library, symbol, kind):
            cause = ALLOCATOR
        elif cause == DATA and kind is MemoryKind.DATA and _is_python(region.name):
            cause = INTERNALS
        return What(
            pid, frames, CAUSES[cause], OUTCOMES[outcome], self._types.get(type_, ""), str(kind), library,
            symbol, any(frame.file.endswith(OWN) for frame in frames),
        )  # fmt: skip


def _frame(told: list[Any] | None) -> Frame:
    """Line 0: it is not known, as where an instruction of the interpreter's own has none."""
    return Frame(told[0], told[1], max(told[2], 0)) if told else UNKNOWN


def _allocates(library: str, symbol: str, kind: MemoryKind) -> bool:
    """Whether the C library wrote to its own heap for itself: what is no string function."""
    libc = "/libc." in library or "/libc-" in library
    return libc and kind is MemoryKind.MALLOC and not symbol.startswith(STRINGS)


def _is_python(path: str) -> bool:
    """Whether a file is the interpreter."""
    return path.rpartition("/")[2].startswith(("python3", "libpython3"))


class Maps:
    """/proc/PID/maps as it was: which kind of memory an address is."""

    def __init__(self, text: str) -> None:
        vmas = procfs.parse_maps(text.encode("utf-8", "replace"))
        self._regions = classify(vmas, programs.extent_here)
        self._bounds = [bound for region in self._regions for bound in (region.start, region.end)]

    def place(self, address: int) -> int:
        """A number that addresses of one region have in common: odd in one, even in none."""
        return bisect.bisect_right(self._bounds, address)

    def at(self, address: int) -> Region:
        """Its kind, and the file it belongs to; pools of objects are told by what is in them, not here."""
        place = self.place(address)
        return self._regions[place // 2] if place % 2 else NOWHERE
