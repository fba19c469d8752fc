"""What can be seen to be wrong with a scenario before it runs."""

from __future__ import annotations

from collections.abc import Iterable

from clonal.scenario.errors import ScenarioError
from clonal.scenario.steps import Step

_ON_PAGES = ("munmap", "mprotect", "madvise", "mlock", "munlock", "read", "write")


class _Checker:
    """Follows who lives and what is mapped, by name."""

    def __init__(self) -> None:
        self.regions: dict[str, dict[str, int]] = {}  # of each process: pages of each region
        self.ended: set[str] = set()
        self.parent: dict[str, str] = {}
        self.asleep: dict[str, str] = {}  # a vforked child by its parent
        self.files: dict[tuple[bool, str], int] = {}  # on disk or in memory: pages, set when first mapped
        self.line = 0

    def fail(self, problem: str, hint: str) -> ScenarioError:
        return ScenarioError(self.line, problem, hint)

    def step(self, line: int, step: Step) -> None:
        self.line = line
        who = step.process
        if who in self.ended:
            raise self.fail(f"{who} has exited", "take this step before its exit")
        if who in self.asleep:
            raise self.fail(f"{who} sleeps in vfork", f"let {self.asleep[who]} exec or exit first")
        regions = self.regions.setdefault(who, {})
        if step.op in _ON_PAGES:
            self._pages(step, regions)
        elif rule := getattr(self, f"_{step.op}", None):
            rule(step, regions)

    def _pages(self, step: Step, regions: dict[str, int]) -> None:
        name, pages = step.args[:2]
        size = self._size(step, regions)
        if pages.last >= size:
            raise self.fail(f"{name} has no page {pages.last}", f"its pages are 0-{size - 1}")

    def _size(self, step: Step, regions: dict[str, int]) -> int:
        name = step.args[0]
        if name not in regions:
            raise self.fail(
                f"{step.process} has no region {name!r}", f"write {step.process}: map {name} anon 16"
            )
        return regions[name]

    def _map(self, step: Step, regions: dict[str, int]) -> None:
        name, kind, pages, *rest = step.args
        if name in regions:
            raise self.fail(f"{step.process} has a region {name!r} already", "choose another name")
        if kind == "thp" and pages % 512:
            raise self.fail(f"{pages} pages are no whole huge pages", "write a multiple of 512")
        if kind in ("file", "memfd-image", "shared-file"):
            file = rest[0] if rest else name
            size = self.files.setdefault((kind == "file", file), pages)
            if pages > size:
                raise self.fail(f"the file {file!r} has {size} pages", f"write {size} or another file")
        elif rest:
            raise self.fail(f"{kind} memory has no file", f"leave out {rest[0]!r}")
        regions[name] = pages

    def _mremap(self, step: Step, regions: dict[str, int]) -> None:
        self._size(step, regions)
        regions[step.args[0]] = step.args[1]

    def _fork(self, step: Step, regions: dict[str, int]) -> None:
        self._born(step, dict(regions))

    def _vfork(self, step: Step, regions: dict[str, int]) -> None:
        self._born(step, regions)
        self.asleep[step.process] = step.args[0]

    def _born(self, step: Step, regions: dict[str, int]) -> None:
        child = step.args[0]
        if child in self.regions:
            raise self.fail(f"there is a process {child!r} already", "choose another name")
        self.regions[child] = regions
        self.parent[child] = step.process

    def _exec(self, step: Step, regions: dict[str, int]) -> None:
        self.regions[step.process] = {}
        self._wake(step.process)

    def _exit(self, step: Step, regions: dict[str, int]) -> None:
        self.ended.add(step.process)
        self._wake(step.process)

    def _wake(self, child: str) -> None:
        if self.asleep.get(self.parent.get(child, "")) == child:
            del self.asleep[self.parent[child]]

    def _wait(self, step: Step, regions: dict[str, int]) -> None:
        child = step.args[0]
        if self.parent.get(child) != step.process:
            raise self.fail(f"{child!r} is no child of {step.process}", "wait for one that it forked")


def check(numbered: Iterable[tuple[int, Step]]) -> None:
    """ScenarioError for the first step that cannot be taken; `numbered` has line numbers."""
    checker = _Checker()
    for line, step in numbered:
        checker.step(line, step)
