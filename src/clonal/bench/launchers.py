"""How each strategy makes its child. A launcher prepares its process once, then makes children.

Every launcher notes CALL, RETURN, RESULT and REAPED in the parent; the child notes the rest.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from abc import ABC, abstractmethod
from typing import Any

from clonal.bench import memory
from clonal.bench.child import child_work
from clonal.bench.clock import Clock, Slot
from clonal.bench.heap import HEAP
from clonal.bench.strategies import Strategy
from clonal.bench.work import answer


class Launcher(ABC):
    def __init__(self, strategy: Strategy, clock: Clock, folder: str, spec: dict[str, Any]) -> None:
        self.strategy, self.clock, self.folder, self.spec = (
            strategy,
            clock,
            folder,
            spec,
        )

    def prepare(self) -> dict[str, Any]:
        """Called once after the heap was built; what it returns goes into the report."""
        return {}

    @abstractmethod
    def once(self, work: str, gate: str | None) -> dict[str, int]:
        """Makes one child, waits for its end; returns what the clock does not know (faults)."""

    def start(self) -> Any:
        """Starts one child that does nothing, for a burst; the result goes to `finish`."""
        raise NotImplementedError

    def finish(self, started: Any) -> None:
        raise NotImplementedError

    def roundtrip(self) -> int:
        """Nanoseconds until the result of a call of nothing in a child is here."""
        raise NotImplementedError

    def template_fork(self) -> int:
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027  (most launchers have started nothing)
        """Ends what `prepare` started."""


class ForkLauncher(Launcher):
    """os.fork in this process, which is what a pre-fork server does."""

    def prepare(self) -> dict[str, Any]:
        report: dict[str, Any] = {}
        if self.strategy.launcher == "thp":
            report["huge_bytes"] = memory.collapse_heap()
        if self.strategy.freeze:
            report["freeze"] = freeze_here(self.strategy.immortal, self.spec)
        self.ranges = memory.private_writable() if self.strategy.launcher == "eager" else []
        return report

    def once(self, work: str, gate: str | None) -> dict[str, int]:
        reader, writer = os.pipe()
        self.clock.stamp(Slot.CALL)
        pid = os.fork()
        if pid == 0:
            self._child(writer, work, gate)
        if self.ranges:
            os.read(reader, 1)  # copied: only now does the call of a fork without copy-on-write return
        self.clock.stamp(Slot.RETURN)
        os.read(reader, 1)
        self.clock.stamp(Slot.RESULT)
        usage = reap(pid)
        self.clock.stamp(Slot.REAPED)
        os.close(reader)
        os.close(writer)
        return {"faults": usage.ru_minflt}

    def _child(self, writer: int, work: str, gate: str | None) -> None:
        """Never returns: a child that ran on would be a second subject."""
        try:
            if self.ranges:
                memory.copy_everything(self.ranges)
                os.write(writer, b"c")
            self.clock.stamp(Slot.FIRST)
            answer(HEAP)
            self.clock.stamp(Slot.ANSWER)
            os.write(writer, b"a")
            child_work(self.clock, HEAP, work, gate)
            self.clock.stamp(Slot.EXIT)
            os._exit(0)
        finally:
            os._exit(1)

    def start(self) -> int:
        pid = os.fork()
        if pid == 0:
            if self.ranges:
                memory.copy_everything(self.ranges)
            os._exit(0)
        return pid

    def finish(self, started: int) -> None:
        reap(started)


class ExecLauncher(Launcher):
    """The four ways to start another program; the program is the minimal C child."""

    def once(self, work: str, gate: str | None) -> dict[str, int]:
        reader, writer = os.pipe()
        self.clock.stamp(Slot.CALL)
        child = self._spawn(self._argv(), writer)
        self.clock.stamp(Slot.RETURN)
        os.close(writer)
        os.read(reader, 1)
        self.clock.stamp(Slot.RESULT)
        self.finish(child)
        self.clock.stamp(Slot.REAPED)
        os.close(reader)
        return {}

    def _argv(self) -> list[str]:
        return [self.spec["floor"], "child", self.clock.path]

    def _spawn(self, argv: list[str], output: int) -> Any:
        """The running child: a Popen or a launched process, or its pid."""
        match self.strategy.launcher:
            case "subprocess":
                return subprocess.Popen(argv, stdout=output)
            case "posix-spawn":
                return os.posix_spawn(
                    argv[0],
                    argv,
                    os.environ,
                    file_actions=[(os.POSIX_SPAWN_DUP2, output, 1)],
                )
            case "launch":
                import clonal

                return clonal.launch(argv, stdout=output)
        pid = os.fork()
        if pid == 0:
            try:
                os.dup2(output, 1)
                os.execv(argv[0], argv)
            finally:
                os._exit(127)
        return pid

    def start(self) -> Any:
        return self._spawn(self._argv(), self._sink())

    def _sink(self) -> int:
        if not hasattr(self, "_null"):
            self._null = os.open(os.devnull, os.O_WRONLY)
        return self._null

    def finish(self, started: Any) -> None:
        if isinstance(started, int):
            reap(started)
        else:
            started.wait()


def freeze_here(immortal: bool, spec: dict[str, Any]) -> dict[str, Any]:
    """Freezes this process; the report as data."""
    import clonal

    report = clonal.freeze(immortal=immortal, hugepages=spec.get("hugepages", True))
    return dict(json.loads(report.to_json()))


def reap(pid: int) -> resource.struct_rusage:
    """Waits for the child; a child that failed would silently make the times meaningless."""
    _, status, usage = os.wait4(pid, 0)
    if status != 0:
        code = os.waitstatus_to_exitcode(status)
        print(f"child {pid} of {sys.argv} ended with {code}", file=sys.stderr)
        raise ChildProcessError(f"a measured child ended with {code}")
    return usage
