"""What both machines have in common: a runner takes steps and shows what became of the memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from clonal.scenario.errors import ScenarioError
from clonal.scenario.observation import Observation, Outcome
from clonal.scenario.pages import Pages
from clonal.scenario.steps import Scenario, Step

PAGE = 4096
HUGE = 512  # pages

# Regions have a part of the address space to themselves, far from what a puppet has for itself: so
# the page tables of theirs, on all levels but the top one, are no one else's.
WINDOW = 0x2000_0000_0000
WINDOW_END = 0x3000_0000_0000


@dataclass(frozen=True)
class Region:
    """Pages mapped under a name. `file` names what backs them, if anything does."""

    name: str
    kind: str
    address: int
    pages: int
    file: str

    @property
    def length(self) -> int:
        return self.pages * PAGE

    @property
    def end(self) -> int:
        return self.address + self.length


class Layout:
    """Where the regions of a scenario go: in both machines at the same addresses, aligned to huge
    pages, at least one huge page apart."""

    def __init__(self) -> None:
        self._next = WINDOW

    def place(self, pages: int) -> int:
        address = self._next
        self._next += (-(-pages // HUGE) + 1) * HUGE * PAGE
        return address


class Runner(ABC):
    """Takes the steps of one scenario after another (`reset`). Who lives and what is mapped where is
    kept here; a machine supplies the operations, each on a process that is known to live."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._layout = Layout()
        self._regions: dict[str, dict[str, Region]] = {}  # shared by a vforked child and its parent
        self._dead: set[str] = set()
        self._steps = 0

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def reset(self) -> None:
        """Ends all processes, for the next scenario."""
        self._begin()

    def close(self) -> None:
        """Ends everything; the runner is of no more use."""
        self.reset()

    @property
    def regions(self) -> dict[str, dict[str, Region]]:
        """Of each living process the regions by name; a vforked child has its parent's own dict."""
        return self._regions

    def look(self) -> Observation:
        """The machine as it is now."""
        return self._observe(Outcome(), self._regions, 0)

    def play(self, scenario: Scenario) -> Iterator[Observation]:
        """Takes all steps, from an empty machine; shows the machine after each."""
        self.reset()
        for step in scenario:
            yield self.run(step)

    def run(self, step: Step) -> Observation:
        """Takes one step."""
        before = self._committed()
        outcome = self._take(step)
        return self._observe(outcome, self._regions, self._committed() - before)

    def _take(self, step: Step) -> Outcome:
        self._steps += 1
        who = step.process
        if who in self._dead:
            self._dead.update(step.args[:1] if step.op in ("fork", "vfork") else ())
            return Outcome("dead")
        if who not in self._regions:
            self._spawn(who)
            self._regions[who] = {}
        outcome: Outcome = getattr(self, f"_step_{step.op}")(who, *step.args)
        if outcome.result == "SIGSEGV":
            self._bury(who)
        return outcome

    def _bury(self, who: str) -> None:
        self._dead.add(who)
        self._regions.pop(who, None)

    # The operations, with their bookkeeping.

    def _step_map(self, who: str, name: str, kind: str, pages: int, file: str = "") -> Outcome:
        region = Region(name, kind, self._layout.place(pages), pages, file or name)
        outcome = self._map(who, region)
        if outcome.result == "ok":
            self._regions[who][name] = region
        return outcome

    def _step_munmap(self, who: str, name: str, pages: Pages) -> Outcome:
        return self._ranges(who, "munmap", name, pages)

    def _step_mprotect(self, who: str, name: str, pages: Pages, prot: str) -> Outcome:
        return self._ranges(who, "mprotect", name, pages, prot)

    def _step_madvise(self, who: str, name: str, pages: Pages, advice: str) -> Outcome:
        return self._ranges(who, "madvise", name, pages, advice)

    def _step_mlock(self, who: str, name: str, pages: Pages) -> Outcome:
        return self._ranges(who, "mlock", name, pages)

    def _step_munlock(self, who: str, name: str, pages: Pages) -> Outcome:
        return self._ranges(who, "munlock", name, pages)

    def _ranges(self, who: str, call: str, name: str, pages: Pages, *args: str) -> Outcome:
        """One call for each range; the first that fails ends the step."""
        region = self._region(who, name)
        minor = 0
        for first, count in pages.ranges:
            outcome = self._call(who, call, region.address + first * PAGE, count * PAGE, *args)
            minor += outcome.minor or 0
            if outcome.result != "ok":
                return outcome._replace(minor=minor)
        return Outcome("ok", minor)

    def _step_mremap(self, who: str, name: str, pages: int) -> Outcome:
        region = self._region(who, name)
        moved = replace(region, address=self._layout.place(pages), pages=pages)
        outcome = self._mremap(who, region, moved)
        if outcome.result == "ok":
            self._regions[who][name] = moved
        return outcome

    def _step_read(self, who: str, name: str, pages: Pages) -> Outcome:
        return self._touch(who, self._region(who, name), pages, False)

    def _step_write(self, who: str, name: str, pages: Pages) -> Outcome:
        return self._touch(who, self._region(who, name), pages, True)

    def _step_fork(self, who: str, child: str) -> Outcome:
        outcome = self._fork(who, child)
        if outcome.result == "ok":
            self._regions[child] = dict(self._regions[who])
        else:
            self._dead.add(child)
        return outcome

    def _step_vfork(self, who: str, child: str) -> Outcome:
        outcome = self._vfork(who, child)
        if outcome.result == "ok":
            self._regions[child] = self._regions[who]
        else:
            self._dead.add(child)
        return outcome

    def _step_exec(self, who: str) -> Outcome:
        outcome = self._exec(who)
        self._regions[who] = {}
        return outcome

    def _step_exit(self, who: str, status: int = 0) -> Outcome:
        outcome = self._exit(who, status)
        self._bury(who)
        return outcome

    def _step_wait(self, who: str, child: str) -> Outcome:
        if child not in self._dead:
            raise ScenarioError(
                self._steps, f"{child} lives: {who} would wait for ever", f"write {child}: exit"
            )
        return self._wait(who, child)

    def _region(self, who: str, name: str) -> Region:
        try:
            return self._regions[who][name]
        except KeyError:
            raise ScenarioError(
                self._steps, f"{who} has no region {name!r}: mapping it failed", "map less"
            ) from None

    # What a machine does.

    @property
    @abstractmethod
    def overcommit(self) -> int:
        """Its vm.overcommit_memory."""

    @abstractmethod
    def _spawn(self, who: str) -> None:
        """A process with nothing mapped."""

    @abstractmethod
    def _map(self, who: str, region: Region) -> Outcome: ...

    @abstractmethod
    def _call(self, who: str, call: str, address: int, length: int, *args: Any) -> Outcome:
        """munmap, mprotect, madvise, mlock or munlock."""

    @abstractmethod
    def _mremap(self, who: str, old: Region, new: Region) -> Outcome: ...

    @abstractmethod
    def _touch(self, who: str, region: Region, pages: Pages, write: bool) -> Outcome: ...

    @abstractmethod
    def _fork(self, who: str, child: str) -> Outcome: ...

    @abstractmethod
    def _vfork(self, who: str, child: str) -> Outcome: ...

    @abstractmethod
    def _exec(self, who: str) -> Outcome: ...

    @abstractmethod
    def _exit(self, who: str, status: int) -> Outcome: ...

    @abstractmethod
    def _wait(self, who: str, child: str) -> Outcome: ...

    @abstractmethod
    def _committed(self) -> int:
        """Committed_AS in pages."""

    @abstractmethod
    def _observe(
        self, outcome: Outcome, regions: dict[str, dict[str, Region]], committed: int
    ) -> Observation:
        """The machine now, after a step with this outcome that added so much to Committed_AS."""
