"""A process that the eBPF program tells of: its copies, made into chunks of a recording."""

from __future__ import annotations

import os
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt

from clonal.kernel.procfs import PAGE, Vma
from clonal.observe.analyse import OUTCOMES
from clonal.observe.record.events import FAULT, FRAME, TEXTS, Events, Told
from clonal.observe.record.evidence import DATA, INTERPRETER, Verdict, judge
from clonal.observe.record.facts import anonymous_pages, command_line, common, shared_pages
from clonal.observe.record.file import RECORD, WORDS, Kind, Writer
from clonal.observe.record.interpreters import Files, Interpreter, mappings
from clonal.observe.record.remote import Memory, Objects, Seen, Shape

COPIED, FROM_FILE = OUTCOMES.index("copied"), OUTCOMES.index("copied from a file")
RELATIVES = 3  # processes that are asked for an object that has gone from one
CODE_MOST = 1 << 24  # bytes of a code object
Described = list[Any]  # function, file, line


class Image:
    """A program as it was executed, and the processes that run it: one and those forked from it."""

    def __init__(self, pid: int) -> None:
        self.pids: dict[int, None] = {pid: None}
        self.interpreter: Interpreter | None = None
        self.seen = Seen()

    def saw(self, event: Events, content: bytes) -> None:
        """An object, and the texts that it has."""
        self.seen.add(int(event["address"]), content[: TEXTS[0][0]])
        for text, (start, room) in enumerate(TEXTS):
            address, size = (int(each) for each in event["block"][2 * text : 2 * text + 2])
            if size:
                self.seen.add(address, content[start : start + size].ljust(room, b"\0"))


class Tracked:
    """One process. `recorded`: it has forked, or was forked."""

    def __init__(self, pid: int, parent: int, generation: int, image: Image) -> None:
        self.pid, self.parent, self.generation, self.image = pid, parent, generation, image
        self.recorded = False
        self.tries = 0  # to find an interpreter
        self.argv: list[str] = []
        self._numbers: dict[bytes, int] = {}  # of stacks, by their frames
        self._types: dict[str, int] = {}
        self._told = [0, 0, 0]  # stacks, types and faults
        self._symbols: set[int] = set()
        self._text = self._written = ""
        self._vmas: list[Vma] = []
        self._starts = np.empty(0, np.uint64)
        self._born: list[tuple[int, int]] | None = None  # private mappings of files at the fork
        self._fresh = self._lost = self._dropped = 0

    # ---- what is known of it ----

    def begins(
        self, writer: Writer, time: int, parent: Tracked | None = None, child: Tracked | None = None,
        running: bool = False,
    ) -> None:  # fmt: skip
        """It shares its pages from now on: all of them with its `parent`, or its `child`, unless it was
        `running`. A child that is gone already had the mappings of its parent."""
        other = parent or child
        again, self.recorded = self.recorded, True
        self.look(parent)
        self._born = common(self._vmas, self._vmas if other is None else other._vmas)
        if again:
            return
        self._numbers, self._types, self._symbols, self._written = {}, {}, set(), ""
        self._told = [0, 0, 0]
        if parent is not None:
            self.argv = parent.argv  # its own may be those of another program by now
        elif not self.argv:
            self.argv = command_line(self.pid)
        python = self.image.interpreter.version if self.image.interpreter else ""
        shared, own = shared_pages(self.pid) if running else (0, 0)
        if not running:
            shared = (anonymous_pages(parent.pid) if parent else 0) or anonymous_pages(self.pid)
        facts: dict[str, Any] = {"shared": shared, "own": own, "frames_shown": True}
        facts |= {"parent": self.parent}
        facts |= {"generation": self.generation, "argv": self.argv[:WORDS], "spawned": False}
        writer.write(Kind.PROCESS, facts | {"time": time, "python": python}, pid=self.pid)

    def look(self, parent: Tracked | None = None) -> None:
        """At its mappings, as they are now."""
        text, vmas = mappings(self.pid, self._text)
        if not vmas and not self._text and parent is not None:
            text, vmas = parent._text, parent._vmas
        if vmas:
            self._text, self._vmas = text, vmas
            self._starts = np.array([vma.start for vma in vmas], np.uint64)

    def executed(self, argv: list[str], program: Vma | None) -> None:
        """It runs this program, of which only the code's mapping may be known yet."""
        self.argv = argv
        if program is not None:
            self._vmas, self._starts = [program], np.array([program.start], np.uint64)

    def runs_as(self, other: Tracked) -> bool:
        """Whether it was forked from the other without executing a program: all is at the same place."""
        mine, theirs = self.image.interpreter, other.image.interpreter
        if mine is None or theirs is None or mine.known != theirs.known:
            return False
        places = [
            [(vma.start, vma.path) for vma in each._vmas if vma.path in ("[vdso]", "[heap]")]
            for each in (self, other)
        ]
        return places[0] == places[1]

    def seek(self, files: Files) -> bool:
        """Whether an interpreter was found in it."""
        before = self._text
        self.look()
        if self._text != before:
            self.image.interpreter = files.interpreter(self.pid, self._vmas)
        return self.image.interpreter is not None

    def ends(
        self, writer: Writer, time: int, fresh: int, lost: int, executes: list[str] | None = None
    ) -> None:
        """As this program, or altogether."""
        if not self.recorded:
            return
        self.counts(writer, fresh, lost)
        facts: dict[str, Any] = {"time": time, "dropped": self._dropped}
        writer.write(Kind.END, facts | ({"executes": executes} if executes else {}), pid=self.pid)
        self.recorded, self._born = False, None
        self._fresh = self._lost = self._dropped = 0

    def counts(self, writer: Writer, fresh: int, lost: int) -> None:
        """First touches and lost copies that the program has counted."""
        new = fresh - self._fresh, lost - self._lost
        self._fresh, self._lost = fresh, lost
        if any(new):
            self._write(writer, b"", [], [], {}, *new)

    def _write(
        self, writer: Writer, records: bytes, stacks: list[Any], types: list[str], symbols: dict[str, Any],
        fresh: int = 0, lost: int = 0,
    ) -> None:  # fmt: skip
        facts: dict[str, Any] = {"stacks": stacks, "types": types, "lost": lost, "fresh": fresh}
        maps = None if self._text == self._written else self._text
        facts["after"] = self._told.copy()
        self._told = [
            told + new
            for told, new in zip(self._told, (len(stacks), len(types), len(records) // RECORD), strict=True)
        ]
        self._written = self._text
        before = writer.dropped
        writer.write(Kind.FAULTS, facts | {"symbols": symbols, "maps": maps}, records, pid=self.pid)
        self._dropped += writer.dropped - before

    # ---- copies ----

    def copies(self, writer: Writer, files: Files, events: Events, frames: list[bytes], gone: bool) -> None:
        """Writes them out. `frames`: of each event, as the program sends them."""
        if not self.recorded:
            return
        if not gone:
            self.look()
        keep = self._of_the_fork(events)
        fresh = len(events) - int(np.count_nonzero(keep))
        frames = [frames[row] for row in np.flatnonzero(keep)]
        events = events[keep].copy()
        with closing(Memory(self._who(gone), self.image.seen)) as memory:
            records = np.zeros(len(events), FAULT)
            types = self._judge(records, events, memory, frames)
            stacks = self._stacks(records, frames, memory)
        for name in ("time", "address", "ip", "thread"):
            records[name] = events[name]
        records["outcome"] = np.where(events["flags"] & Told.FROM_FILE, FROM_FILE, COPIED)
        symbols = self._new_symbols(files, events["ip"])
        self._write(writer, records.tobytes(), stacks, types, symbols, fresh=fresh)

    def _who(self, gone: bool) -> list[int]:
        """Who has the objects of this process: itself, its parent, others."""
        others = [
            pid for pid in (self.parent, *self.image.pids) if pid in self.image.pids and pid != self.pid
        ]
        return ([] if gone else [self.pid]) + list(dict.fromkeys(others))[:RELATIVES]

    def _vma(self, address: int) -> Vma | None:
        index = int(np.searchsorted(self._starts, np.uint64(address), "right")) - 1
        found = self._vmas[index] if index >= 0 else None
        return found if found is not None and address < found.end else None

    def _of_the_fork(self, events: Events) -> npt.NDArray[np.bool_]:
        """Which copies are of pages that the fork shared: in a file that was mapped later there are none.
        Where the program could not look a mapping up, the list of mappings says whether it is a file's."""
        flags = events["flags"]
        filed = flags & Told.OF_FILE != 0
        for row in np.flatnonzero(flags & Told.NOT_SURE):
            vma = self._vma(int(events["address"][row]))
            filed[row] = vma is not None and vma.inode != 0 and vma.private
        keep: npt.NDArray[np.bool_] = filed | (flags & Told.FROM_FILE == 0)
        if self._born is not None:
            born = np.array(self._born, np.uint64).reshape(-1, 2)
            index = np.searchsorted(born[:, 0], events["address"], "right") - 1
            there = (index >= 0) & (events["address"] < np.append(born[:, 1], 0)[index])
            keep &= there | ~filed
        return keep

    def _judge(self, records: Events, events: Events, memory: Memory, frames: list[bytes]) -> list[str]:
        """Fills in cause, type and pool; the names of types that are new."""
        objects = self.image.interpreter.objects if self.image.interpreter else None
        seen: dict[int, Shape | None] = {}
        self._look_later(events, memory)

        def shape_of(address: int) -> Shape | None:
            if address not in seen:
                seen[address] = objects.shape(memory, address) if objects else None
            return seen[address]

        code, string = (objects.code, objects.string) if objects else (0, 0)
        made = judge(events, shape_of, code, string)
        if objects:
            _in_running_code(made, events, frames, objects, memory)
            shape_of(code)
        records["cause"], records["in_pool"] = made.cause, made.in_pool & (objects is not None)
        new: list[str] = []
        for address in np.unique(made.type).tolist():
            shape = seen.get(address)
            if shape is not None:
                if shape.name not in self._types:
                    self._types[shape.name] = len(self._types) + 1
                    new.append(shape.name)
                records["type"][made.type == np.uint64(address)] = self._types[shape.name]
        return new

    def _look_later(self, events: Events, memory: Memory) -> None:
        """What lies at addresses whose page was not there yet when it was written to."""
        for row in np.flatnonzero(events["flags"] & Told.FROM_FILE):
            address = int(events["address"][row])
            if address % PAGE <= PAGE - 32 and (found := memory.read(address, 32)) is not None:
                events["at"][row] = np.frombuffer(found, "<u8")
                events["flags"][row] |= Told.AT_READ

    def _stacks(self, records: Events, frames: list[bytes], memory: Memory) -> list[list[Described | None]]:
        """Fills in the numbers of the stacks; those that are new, described."""
        new: list[list[Described | None]] = []
        codes: dict[tuple[int, int], Described | None] = {}
        objects = self.image.interpreter.objects if self.image.interpreter else None
        if objects is None:
            return new
        numbers = []
        for stack in frames:
            number = self._numbers.get(stack, 0) if stack else 0
            if stack and not number:
                number = self._numbers[stack] = len(self._numbers) + 1
                words = np.frombuffer(stack, "<u8").tolist()
                pairs = zip(words[::2], words[1::2], strict=True)
                new.append([described(objects, memory, codes, *pair) for pair in pairs])
            numbers.append(number)
        records["stack"] = numbers
        return new

    def _new_symbols(self, files: Files, addresses: npt.NDArray[np.uint64]) -> dict[str, Any]:
        found = {}
        for address in np.unique(addresses).tolist():
            if address and address not in self._symbols:
                self._symbols.add(address)
                vma = self._vma(address)
                if vma is not None and vma.path:
                    found[f"{address:x}"] = [vma.path, files.function(self._who(False), vma, address)]
        return found


def _in_running_code(
    made: Verdict, events: Events, frames: list[bytes], objects: Objects, memory: Memory
) -> None:
    """Code objects too long for a pool adapt their own instructions when they run."""
    for row in np.flatnonzero((made.cause == DATA) & ~made.in_pool & (events["flags"] & Told.BY_KERNEL == 0)):
        start = int.from_bytes(frames[row][:8], "little")
        at = int(events["address"][row]) - start
        if not start or not 0 <= at < CODE_MOST:
            continue
        code = objects.code_at(memory, start)
        if code is not None and at < objects.layout.instructions + 2 * code.size:
            made.cause[row], made.type[row] = INTERPRETER, objects.code


def described(
    objects: Objects, memory: Memory, seen: dict[tuple[int, int], Described | None], address: int, at: int
) -> Described | None:
    """Function, file and line of a frame; None where the code object is gone."""
    if (address, at) not in seen:
        code = objects.code_at(memory, address)
        unit = (at - address - objects.layout.instructions) // 2
        if code is None or not -1 <= unit < code.size:
            seen[address, at] = None
        else:
            seen[address, at] = [code.name, code.file, code.line(unit) if unit >= 0 else code.line(0)]
    return seen[address, at]


def split(events: Events, frames: bytes) -> list[bytes]:
    """The frames of each event."""
    ends = (np.cumsum(events["depth"]) * FRAME).tolist()
    return [frames[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def file_name(event: Events) -> str:
    """Of an event that tells what is executed."""
    return os.fsdecode(event["pool"].tobytes() + event["block"].tobytes() + event["at"].tobytes()).partition(
        "\0"
    )[0]
