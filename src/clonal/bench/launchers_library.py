"""Launchers whose children are made by a library: multiprocessing, Clonal's template, threads."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import threading
from typing import Any

from clonal.bench.child import call_in_child, child_work
from clonal.bench.clock import Slot, now
from clonal.bench.heap import ENVIRONMENT, HEAP, describe
from clonal.bench.launchers import Launcher
from clonal.bench.memory import mapping_count
from clonal.bench.nothing import nothing
from clonal.bench.work import answer


class MultiprocessingLauncher(Launcher):
    """spawn builds the heap in each child; forkserver has it preloaded, as its users would."""

    def prepare(self) -> dict[str, Any]:
        os.environ[ENVIRONMENT] = describe(self.spec)
        self.context: Any = multiprocessing.get_context(self.strategy.launcher)
        if self.strategy.launcher == "forkserver":
            self.context.set_forkserver_preload(["clonal.bench.preloaded"])
            self.finish(self.start())  # the server starts and preloads at the first use
        return {}

    def once(self, work: str, gate: str | None) -> dict[str, int]:
        reader, writer = self.context.Pipe(duplex=False)
        process = self.context.Process(target=call_in_child, args=(self.clock.path, work, gate, writer))
        self.clock.stamp(Slot.CALL)
        process.start()
        self.clock.stamp(Slot.RETURN)
        writer.close()
        reader.recv()
        self.clock.stamp(Slot.RESULT)
        self.finish(process)
        self.clock.stamp(Slot.REAPED)
        reader.close()
        return {}

    def start(self) -> Any:
        process = self.context.Process(target=nothing)
        process.start()
        return process

    def finish(self, started: Any) -> None:
        started.join()
        if started.exitcode != 0:
            raise ChildProcessError(f"a measured child ended with {started.exitcode}")
        started.close()


class CloneLauncher(Launcher):
    """This process is the client; the template beside it has the heap."""

    def prepare(self) -> dict[str, Any]:
        import clonal

        os.environ[ENVIRONMENT] = describe(self.spec)
        self.template = clonal.Template(
            preload=self.spec.get("preload", PRELOAD),
            setup=self.spec.get("setup", "clonal.bench.heap:warm"),
            standby=self.strategy.standby,
        )
        for _ in range(LESSONS):
            self.template.clone(nothing).result()
        return {"freeze": freeze_report(self.template), "mappings": mapping_count(self.template.pid)}

    def once(self, work: str, gate: str | None) -> dict[str, int]:
        self.clock.stamp(Slot.CALL)
        clone = self.template.clone(call_in_child, self.clock.path, work, gate)
        self.clock.stamp(Slot.RETURN)
        clone.result()
        self.clock.stamp(Slot.RESULT)
        clone.wait()
        self.clock.stamp(Slot.REAPED)
        return {}

    def start(self) -> Any:
        return self.template.clone(nothing)

    def finish(self, started: Any) -> None:
        started.result()
        started.wait()

    def roundtrip(self) -> int:
        self._await_standby()
        start = now()
        clone = self.start()
        clone.result()
        elapsed = now() - start
        clone.wait()
        return elapsed

    def _await_standby(self) -> None:
        """Busy, as a client at work is: to wake an idle virtual processor takes longer than the clone."""
        deadline = now() + 10**10
        while self.strategy.standby and not self.template.stats().standby_ready:
            if now() > deadline:
                raise TimeoutError("no standby clone became ready")

    def template_fork(self) -> int:
        """Nanoseconds that the template's own fork call took for one clone."""
        before = self.template.stats()
        self.finish(self.start())
        after = self.template.stats()
        seconds: float = after.forks * after.fork_seconds - before.forks * (before.fork_seconds or 0)
        return round(seconds * 1e9)

    def close(self) -> None:
        self.template.close()


LESSONS = 12  # a template learns from its first clones, and the client's code is specialised
PRELOAD = ["clonal.bench.child", "clonal.bench.nothing"]


def freeze_report(template: Any) -> dict[str, Any]:
    report = getattr(template, "report", None)
    return {} if report is None else dict(json.loads(report.to_json()))


class ThreadLauncher(Launcher):
    """No process at all: what isolation costs is the difference to this."""

    def once(self, work: str, gate: str | None) -> dict[str, int]:
        answered = threading.Event()
        self.clock.stamp(Slot.CALL)
        thread = self.start(lambda: self._run(work, answered))
        self.clock.stamp(Slot.RETURN)
        answered.wait()
        self.clock.stamp(Slot.RESULT)
        self.finish(thread)
        self.clock.stamp(Slot.REAPED)
        return {}

    def _run(self, work: str, answered: threading.Event) -> None:
        self.clock.stamp(Slot.FIRST)
        answer(HEAP)
        self.clock.stamp(Slot.ANSWER)
        answered.set()
        child_work(self.clock, HEAP, work, None)
        self.clock.stamp(Slot.EXIT)

    def start(self, target: Any = nothing) -> threading.Thread:
        thread = threading.Thread(target=target)
        thread.start()
        return thread

    def finish(self, started: threading.Thread) -> None:
        started.join()


class TaskLauncher(Launcher):
    """An asyncio task in this process's loop."""

    def prepare(self) -> dict[str, Any]:
        self.loop = asyncio.new_event_loop()
        return {}

    def once(self, work: str, gate: str | None) -> dict[str, int]:
        self.loop.run_until_complete(self._once(work))
        return {}

    async def _once(self, work: str) -> None:
        self.clock.stamp(Slot.CALL)
        task = asyncio.ensure_future(self._run(work))
        self.clock.stamp(Slot.RETURN)
        await task
        self.clock.stamp(Slot.REAPED)

    async def _run(self, work: str) -> None:
        self.clock.stamp(Slot.FIRST)
        answer(HEAP)
        self.clock.stamp(Slot.ANSWER)
        self.clock.stamp(Slot.RESULT)
        child_work(self.clock, HEAP, work, None)
        self.clock.stamp(Slot.EXIT)

    def start(self) -> Any:
        return self.loop.create_task(_nothing())

    def finish(self, started: Any) -> None:
        self.loop.run_until_complete(started)

    def close(self) -> None:
        self.loop.close()


async def _nothing() -> None:
    pass
