"""The page-exact model as a machine that runs scenarios."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clonal.model import (
    Advice,
    BadFlags,
    BadRange,
    CommitRefused,
    Config,
    Faults,
    File,
    GroupFull,
    Kind,
    Machine,
    Map,
    OutOfFrames,
    Process,
    Prot,
    Segfault,
    Unmodelled,
)
from clonal.scenario.errors import NotModelled
from clonal.scenario.observation import Observation, Outcome, ProcessView, RegionView, Rss, Shown
from clonal.scenario.pages import Pages
from clonal.scenario.runner import PAGE, Region, Runner

_PROTS = {
    "none": Prot.NONE,
    "r": Prot.READ,
    "rw": Prot.RW,
    "rx": Prot.READ | Prot.EXEC,
    "rwx": Prot.RW | Prot.EXEC,
}
_ANONYMOUS = Map.PRIVATE | Map.ANONYMOUS
_FLAGS = {
    "anon": _ANONYMOUS,
    "thp": _ANONYMOUS,
    "guard": _ANONYMOUS,
    "noreserve": _ANONYMOUS | Map.NORESERVE,
    "file": Map.PRIVATE,
    "memfd-image": Map.PRIVATE,
    "shared": Map.SHARED | Map.ANONYMOUS,
    "shared-file": Map.SHARED,
}
_HUGE_OR_NOT = {"thp": Advice.HUGEPAGE, "anon": Advice.NOHUGEPAGE, "noreserve": Advice.NOHUGEPAGE}
_SHOWN = np.zeros(max(Kind) + 1, np.uint8)
_SHOWN[Kind.ZERO] = Shown.ZERO
_SHOWN[Kind.FILE] = _SHOWN[Kind.SHMEM] = Shown.FILE
_SHOWN[Kind.ANON] = Shown.ANON


class ModelRunner(Runner):
    """Runs scenarios on a model machine, a new one for each scenario."""

    def __init__(self, config: Config | None = None) -> None:
        self._config = config or Config()
        super().__init__()

    def _begin(self) -> None:
        super()._begin()
        self.machine = Machine(self._config)
        self._processes: dict[str, Process] = {}
        self._mms: dict[str, str] = {}  # who first had the address space that a process has
        self._files: dict[tuple[str, str], File] = {}

    @property
    def overcommit(self) -> int:
        return self.machine.config.overcommit

    def process(self, who: str) -> Process:
        """A process of the scenario."""
        return self._processes[who]

    @property
    def faults(self) -> Faults:
        """All faults of the scenario so far."""
        return sum((process.faults for process in self._processes.values()), Faults())

    def bury_the_killed(self) -> list[str]:
        """Forgets the processes that the OOM killer has taken; which."""
        found = [who for who in self._regions if self._processes[who].exit_code is not None]
        for who in found:
            self._bury(who)
        return found

    def _spawn(self, who: str) -> None:
        self._processes[who] = self.machine.spawn()
        self._mms[who] = who

    def _map(self, who: str, region: Region) -> Outcome:
        process = self._processes[who]
        prot = Prot.NONE if region.kind == "guard" else Prot.RW

        def act() -> None:
            process.mmap(
                region.length,
                prot=prot,
                flags=_FLAGS[region.kind],
                file=self._file(region),
                at=region.address,
            )
            if region.kind in _HUGE_OR_NOT:
                process.madvise(region.address, region.length, _HUGE_OR_NOT[region.kind])

        return self._try(process, act)

    def _file(self, region: Region) -> File | None:
        if region.kind not in ("file", "memfd-image", "shared-file"):
            return None
        on_disk = region.kind == "file"
        key = ("file" if on_disk else "memfd", region.file)
        if key not in self._files:
            make = self.machine.file if on_disk else self.machine.memfd
            self._files[key] = make(region.pages)
            self._files[key].load(np.arange(region.pages))
        return self._files[key]

    def _call(self, who: str, call: str, address: int, length: int, *args: str) -> Outcome:
        process = self._processes[who]
        words = [_PROTS[word] if call == "mprotect" else _advice(word) for word in args]
        return self._try(process, lambda: getattr(process, call)(address, length, *words))

    def _mremap(self, who: str, old: Region, new: Region) -> Outcome:
        process = self._processes[who]
        outcome = self._try(process, lambda: process.mremap(old.address, old.length, new.length, new.address))
        return outcome._replace(result="EFAULT") if outcome.result == "ENOMEM" else outcome

    def _touch(self, who: str, region: Region, pages: Pages, write: bool) -> Outcome:
        process = self._processes[who]
        numbers = pages.numbers + region.address // PAGE
        outcome = self._try(process, lambda: process.touch(numbers, write=write))
        if outcome.result == "SIGSEGV":
            process.exit(139)
            return Outcome("SIGSEGV")
        return outcome

    def _try(self, process: Process, act: Callable[[], object]) -> Outcome:
        before = process.faults.minor
        result = "ok"
        try:
            act()
        except Segfault:
            result = "SIGSEGV"
        except (BadRange, CommitRefused, OutOfFrames, GroupFull):
            result = "ENOMEM"
        except BadFlags:
            result = "EINVAL"
        except Unmodelled as error:
            raise NotModelled(error.what) from error
        return Outcome(result, process.faults.minor - before)

    def _fork(self, who: str, child: str) -> Outcome:
        try:
            self._processes[child] = self._processes[who].fork()
        except (CommitRefused, OutOfFrames, GroupFull):
            return Outcome("ENOMEM")
        self._mms[child] = child
        return Outcome()

    def _vfork(self, who: str, child: str) -> Outcome:
        self._processes[child] = self._processes[who].vfork()
        self._mms[child] = self._mms[who]
        return Outcome()

    def _exec(self, who: str) -> Outcome:
        self._processes[who].exec()
        self._mms[who] = who
        return Outcome()

    def _exit(self, who: str, status: int) -> Outcome:
        self._processes[who].exit(status)
        return Outcome()

    def _wait(self, who: str, child: str) -> Outcome:
        self._processes[who].wait(self._processes[child])
        return Outcome()

    def _committed(self) -> int:
        return self.machine.committed

    def _observe(
        self, outcome: Outcome, regions: dict[str, dict[str, Region]], committed: int
    ) -> Observation:
        pages = {
            who: {
                name: self._processes[who].pages(region.address, region.length)
                for name, region in named.items()
            }
            for who, named in regions.items()
        }
        once = self._mapped_once(pages)
        views = {who: self._view(who, named, once) for who, named in pages.items()}
        return Observation(outcome, views, committed)

    def _mapped_once(self, pages: dict[str, dict[str, Any]]) -> NDArray[np.int64]:
        """The frames that one page-table entry maps: all that is mapped lies in regions."""
        spaces = {self._mms[who]: named for who, named in pages.items()}
        frames = [each.frame[each.frame >= 0] for named in spaces.values() for each in named.values()]
        values, counts = np.unique(np.concatenate([*frames, np.empty(0, np.int64)]), return_counts=True)
        once: NDArray[np.int64] = values[counts == 1]
        return once

    def _view(self, who: str, pages: dict[str, Any], once: NDArray[np.int64]) -> ProcessView:
        process = self._processes[who]
        views = {name: _region_view(each, once) for name, each in pages.items()}
        return ProcessView(views, Rss(*process.rss), process.page_table_bytes, process.space.commit())


def _region_view(pages: Any, once: NDArray[np.int64]) -> RegionView:
    alone = np.isin(pages.frame, once) & (pages.kind != Kind.ZERO)
    return RegionView(_SHOWN[pages.kind], pages.frame.astype(np.int64), alone, pages.huge)


def _advice(word: str) -> Advice:
    try:
        return Advice[word.upper()]
    except KeyError:
        raise NotModelled(f"MADV_{word.upper()}") from None
