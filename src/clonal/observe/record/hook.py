"""What is loaded into each recorded Python process: it arms the recording around forks and writes it out.

A process is recorded from its first fork on, as parent or child: before that it shares no page of its own
with anybody. Nothing here may need more than the interpreter has loaded anyway: each import copies pages.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from clonal import _native
from clonal.observe.record import file
from clonal.observe.record.file import WORDS, Kind, Writer

ENVIRONMENT = "CLONAL_RECORD"  # the recording's path
LIMIT = "CLONAL_RECORD_LIMIT"  # its bytes at most
BACKEND = "CLONAL_RECORD_BACKEND"  # sigtrap or snapshot
KEEPER = "CLONAL_RECORD_KEEPER"  # "name:secret" of the socket that takes rings (keeper.py)
DRAIN_SIGNAL = signal.SIGRTMAX - 3  # never sent: the handler of SIGTRAP trips it (PyErr_SetInterruptEx)
TAKEN = "it has a SIGTRAP handler of its own, in C; the backends bpf and snapshot leave that alone"
OURS = "clonal.observe.record."
SPAWNS = "_execute_child"  # of subprocess: it forks where preexec_fn or a user is given, else it vforks
SHARE = 0.05  # of its time that a process may spend on looking at its pages again, after each fork

_really_exit, _really_execv, _really_execve = os._exit, os.execv, os.execve
_really_signal = signal.signal


installed: Recorder | None = None


def _kept(work: Callable[[], None]) -> Callable[[], BaseException | None]:
    """The work, which returns what a signal's handler has raised meanwhile (Ctrl-C): it is the program's."""

    def kept() -> BaseException | None:
        try:
            work()
        except BaseException as error:
            trace = error.__traceback__
            while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith(OURS):
                trace = trace.tb_next
            if trace is None and isinstance(error, Exception):
                raise  # of the recording's own
            return error.with_traceback(trace)
        return None

    return kept


def _text(word: Any) -> str:
    """A path or an argument; a path may be a descriptor."""
    return os.fsdecode(word) if isinstance(word, str | bytes | os.PathLike) else repr(word)


class Recorder:
    """The recording of this process."""

    def __init__(self, path: str, limit: int) -> None:
        self.writer = Writer(path, limit)
        self.traps = os.environ.get(BACKEND, "sigtrap") == "sigtrap"
        self.generation = 0  # forks between the first process and this one
        self.recording = False
        self.spawned = False  # only to execute a program
        self.over = False  # the recording could not be written
        self.waiting = 0  # the process that only makes clones: it is not recorded
        self.keeper(os.environ.get(KEEPER, ""))
        self._draining = False
        self._their_trap: Any = None  # what the program wants of SIGTRAP; None: not asked yet
        self._symbols: dict[int, Any] = {}
        self._maps = ""
        self._written = 0  # faults, of this process
        self._whole = True  # it has not closed what the recording needs
        self._look, self._looked_at = 0.0, 0.0

    def keeper(self, address: str) -> None:
        """Who takes the rings from now on; "" is nobody."""
        name, _, secret = address.rpartition(":")
        self._keeper = (b"\0" + name.encode() if name else b"", secret.encode())

    def install(self) -> None:
        global installed
        installed = self
        self._write(Kind.HOOKED, {"argv": sys.argv[:WORDS]})
        self._await_drain()  # here already: another thread may fork
        child, parent = (_native.trap_fork_handler(_kept(work)) for work in (self.child, self.parent))
        os.register_at_fork(after_in_child=child, after_in_parent=parent)
        atexit.register(self.finish)
        os._exit = self.exit  # type: ignore[assignment]
        os.execv, os.execve = self.execv, self.execve  # type: ignore[assignment]
        signal.signal = self.signal  # type: ignore[assignment]

    def child(self) -> None:
        """In a new process."""
        self.generation += 1
        self.recording = self._draining = False  # another thread may have been draining when it was forked
        caller = sys._getframe().f_back
        while caller is not None and caller.f_globals is globals():
            caller = caller.f_back
        self.spawned = caller is not None and caller.f_code.co_name == SPAWNS
        self._symbols, self._maps, self._written, self._whole, self._look = {}, "", 0, True, 0.0
        self.writer.dropped = 0
        self.start()

    def parent(self) -> None:
        """After a fork: every page is shared once more. Looking takes time, so not after each of many."""
        if self.waiting == os.getpid():
            return
        often = self._look > SHARE * (time.monotonic() - self._looked_at)
        if self.recording and often and _native.trap_forked():
            return
        if self.recording:
            rest = _native.trap_rest()  # first: what this does itself is not to be in it
            self.drain()
            self._write_rest(rest)
            self._whole &= _native.trap_whole()
        self.start()

    def start(self) -> None:
        """Begins, or begins again with what is shared now. A process that cannot be recorded says so in the
        recording and runs on."""
        if self.over:
            return
        begun = time.monotonic()
        self._await_drain()
        if self.traps and self._their_trap is None:
            self._keep_trap(signal.getsignal(signal.SIGTRAP))
        try:
            shared, frames_shown, own, unwatched, why = _native.trap_start(DRAIN_SIGNAL, self.traps)
        except OSError as error:
            self.note({"failed": TAKEN if error.filename == "SIGTRAP" else str(error)})
            return
        self._looked_at = time.monotonic()
        self._look = self._looked_at - begun
        if not self.recording:
            self.recording = True
            facts = {"shared": shared, "own": own, "frames_shown": frames_shown, "before": self._written}
            self.note(facts | ({"unwatched": [unwatched, why]} if unwatched else {}))
        _native.trap_hand_over(*self._keeper)

    def _await_drain(self) -> None:
        """Again in each process, for the program may have reset its signals."""
        try:
            signal.signal(DRAIN_SIGNAL, self._asked)
        except ValueError:  # not the main thread: as it was
            pass

    def note(self, facts: dict[str, Any]) -> None:
        """A chunk that introduces this process."""
        facts |= {"parent": os.getppid(), "generation": self.generation, "argv": sys.argv[:WORDS]}
        facts |= {"spawned": self.spawned, "time": time.monotonic_ns(), "python": sys.version.split()[0]}
        self._write(Kind.PROCESS, facts)

    def _asked(self, _number: int, frame: Any) -> None:
        """By the handler of SIGTRAP: to drain, or to call the program's own handler."""
        self.drain()
        if _native.trap_passed() and callable(self._their_trap):
            self._their_trap(signal.SIGTRAP, frame)

    def drain(self) -> None:
        """Writes out what was recorded since the last time."""
        if self._draining:  # a signal handler does this, too
            return
        self._draining = True
        try:
            self._write_new()
        finally:  # a signal's handler may raise
            self._draining = False

    def _write_new(self) -> None:
        found = _native.trap_drain() if self.recording else None
        if found is not None and (found[0] or found[3]):
            records, stacks, types, lost, fresh, *_ = found
            facts = file.faults(found) | {"symbols": self._new_symbols(records), "maps": self._new_maps()}
            self._write(Kind.FAULTS, facts, records)
            self._written += len(records) // file.RECORD
            _native.trap_drained(len(records) // file.RECORD, len(stacks), len(types), lost, fresh)

    def _write_rest(self, records: bytes) -> None:
        """Pages that the kernel wrote to in system calls: no fault of this process's own code."""
        if records:
            facts: dict[str, Any] = {
                "stacks": [],
                "types": [],
                "symbols": {},
                "maps": self._new_maps(),
                "lost": 0,
                "fresh": 0,
            }
            self._write(Kind.FAULTS, facts, records)

    def _new_symbols(self, records: bytes) -> dict[str, Any]:
        words = memoryview(records).cast("Q")  # 5 words each, the third is where the instruction is
        new = set(words[2::5].tolist()) - self._symbols.keys()
        found = {address: _native.trap_symbol(address) for address in new}
        self._symbols |= found
        return {f"{address:x}": symbol for address, symbol in found.items()}

    def _new_maps(self) -> str | None:
        maps = (_native.trap_maps() or b"").decode("utf-8", "replace")
        if maps == self._maps:
            return None
        self._maps = maps
        return maps

    def finish(self, ends: bool = True) -> None:
        """At the end of the process, or of its recording."""
        if self.recording:
            rest = _native.trap_rest()
            self.drain()
            self._write_rest(rest)
            whole = self._whole and _native.trap_whole()
            _native.trap_stop(ends)
            self.recording = False
            facts = {"time": time.monotonic_ns(), "dropped": self.writer.dropped, "whole": whole}
            self._write(Kind.END, facts)

    def exit(self, status: int) -> None:
        """os._exit, which runs no exit functions, and ends the process whatever a signal's handler raises."""
        try:
            self.finish()
        finally:
            _really_exit(status)

    def signal(self, number: Any, handler: Any) -> Any:
        """signal.signal. A worker that sets all signals that end it, as Celery's do (billiard/common.py
        reset_signals), would end at its next fault: its wish is kept, for SIGTRAPs that no fault sent."""
        if number != signal.SIGTRAP:
            return _really_signal(number, handler)
        if not (self.recording and self.traps):
            self._their_trap = None
            return _really_signal(number, handler)
        before = self._their_trap
        self._keep_trap(handler)
        return before

    def _keep_trap(self, wish: Any) -> None:
        self._their_trap = wish
        _native.trap_theirs(2 if callable(wish) else int(wish == signal.SIG_IGN))

    def execv(self, path: Any, argv: Any) -> None:
        """os.execv, on which all others but execve build (os.py)."""
        self._executes(path, argv)
        _really_execv(path, argv)

    def execve(self, path: Any, argv: Any, env: Any) -> None:
        """os.execve."""
        self._executes(path, argv)
        _really_execve(path, argv, env)

    def _executes(self, path: Any, argv: Any) -> None:
        """The end of this program, unless the call fails: then the recording goes on."""
        if self.recording:
            self.drain()
            words = [_text(word) for word in (path, *argv)]  # execvp gives bytes
            facts = {"time": time.monotonic_ns(), "dropped": self.writer.dropped, "executes": words[:16]}
            self._write(Kind.END, facts)

    def _write(self, kind: Kind, facts: dict[str, Any], records: bytes = b"", pid: int | None = None) -> None:
        """What cannot be written ends the recording of this process, and of those that it forks later."""
        if self.over:
            return
        try:
            self.writer.write(kind, facts, records, pid)
        except OSError as error:
            self.recording, self.over = False, True
            why = f"{self.writer.path}: {error.strerror}"
            print(f"clonal record: process {os.getpid()} is not recorded any more: {why}", file=sys.stderr)


def install() -> None:
    """In a process whose environment asks for it."""
    path = os.environ.get(ENVIRONMENT)
    if path:
        Recorder(path, int(os.environ.get(LIMIT, file.LIMIT))).install()
