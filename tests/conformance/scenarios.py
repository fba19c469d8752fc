"""Scenarios at random, all of them valid: made by a `Random`, which hypothesis supplies and shrinks."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from clonal.scenario import Pages, Scenario, Step
from clonal.scenario.check import check

KINDS = {
    "anon": (4, 24),
    "thp": (512, 1024),
    "noreserve": (4, 12),
    "file": (8, 40),
    "memfd-image": (8, 40),
    "shared": (4, 16),
    "shared-file": (4, 20),
    "guard": (2, 6),
}
ADVICE = [
    "dontneed",
    "dontfork",
    "dofork",
    "wipeonfork",
    "keeponfork",
    "free",
    "populate_read",
    "populate_write",
]
HUGE_ADVICE = ["collapse", "collapse", "hugepage", "nohugepage"]  # for private anonymous memory
WEIGHTS = {
    "write": 24,
    "read": 18,
    "fork": 8,
    "map": 5,
    "madvise": 12,
    "mprotect": 7,
    "mlock": 4,
    "munlock": 2,
    "munmap": 3,
    "mremap": 3,
    "vfork": 2,
    "exec": 1,
    "exit": 4,
    "wait": 4,
}
MOST_PROCESSES = 6


@dataclass
class Process:
    """What a scenario's author knows of a process."""

    name: str
    parent: Process | None = None
    regions: dict[str, list[str]] = field(default_factory=dict)  # "w", "r" or "-" of each page
    waits_for: Process | None = None  # its vforked child, until that execs or exits


class Author:
    """Writes one scenario, step by step."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.steps: list[Step] = []
        self.alive = [Process("p0")]
        self.ended: list[Process] = []
        self.processes = 1
        self.names = 0
        self.backed: set[str] = set()  # regions with something behind them that has a size of its own

    def write(self) -> Scenario:
        root = self.alive[0]
        for kind in self.random.sample(sorted(KINDS), 3):
            self.map(root, kind)
        for _ in range(self.random.randint(1, 3)):
            self.random.choice([self.write_pages, self.read])(root)
        self.fork(root)
        for _ in range(self.random.randint(4, 14)):
            self.any(self.random.choice([each for each in self.alive if not each.waits_for]))
        while self.processes < 3 or len(self.steps) < 8:
            who = self.random.choice([each for each in self.alive if not each.waits_for])
            (self.fork if self.processes < 3 else self.map)(who)
        check(enumerate(self.steps, 1))
        return Scenario(tuple(self.steps))

    def any(self, who: Process) -> None:
        operations = {
            "write": self.write_pages,
            **{op: getattr(self, op) for op in WEIGHTS if op != "write"},
        }
        op = self.random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        operations[op](who)

    def step(self, who: Process, op: str, *args: object) -> None:
        self.steps.append(Step(who.name, op, args))

    def map(self, who: Process, kind: str = "") -> None:
        kind = kind or self.random.choice(sorted(KINDS))
        least, most = KINDS[kind]
        pages = self.random.choice([512, 1024]) if kind == "thp" else self.random.randint(least, most)
        name = f"r{self.names}"
        self.names += 1
        if kind in ("file", "memfd-image", "shared", "shared-file"):
            self.backed.add(name)
        who.regions[name] = ["-" if kind == "guard" else "w"] * pages
        self.step(who, "map", name, kind, pages)

    def _some(self, who: Process) -> tuple[str, Pages] | None:
        """A region and some pages of it: a range, or a few single ones."""
        if not who.regions:
            return None
        name = self.random.choice(sorted(who.regions))
        size = len(who.regions[name])
        first = self.random.randrange(size)
        if self.random.random() < 0.2:
            return name, Pages.of(self.random.randrange(size) for _ in range(4))
        return name, Pages.of(range(first, min(size, first + self.random.choice([1, 2, 5, 9, size]))))

    def _on_pages(self, who: Process, op: str, *args: object, becomes: str = "") -> None:
        if some := self._some(who):
            self.step(who, op, *some, *args)
            for page in some[1] if becomes else ():
                who.regions[some[0]][page] = becomes

    def _touch(self, who: Process, op: str, allowed: str) -> None:
        """Mostly pages that may be touched so: who touches others dies."""
        if not (some := self._some(who)):
            return
        name, pages = some
        if self.random.random() < 0.97:
            pages = Pages.of(page for page in pages if who.regions[name][page] in allowed)
        if pages.ranges:
            self.step(who, op, name, pages)

    def write_pages(self, who: Process) -> None:
        self._touch(who, "write", "w")

    def read(self, who: Process) -> None:
        self._touch(who, "read", "rw")

    def munmap(self, who: Process) -> None:
        if who.regions and self.random.random() < 0.3:
            name = self.random.choice(sorted(who.regions))
            self.step(who, "munmap", name, Pages.of(range(len(who.regions[name]))))
            who.regions[name] = ["-"] * len(who.regions[name])
        else:
            self._on_pages(who, "munmap", becomes="-")

    def mlock(self, who: Process) -> None:
        self._on_pages(who, "mlock")

    def munlock(self, who: Process) -> None:
        self._on_pages(who, "munlock")

    def mprotect(self, who: Process) -> None:
        prot, becomes = self.random.choice([("rw", "w"), ("rw", "w"), ("r", "r"), ("r", "r"), ("none", "-")])
        self._on_pages(who, "mprotect", prot, becomes=becomes)

    def madvise(self, who: Process) -> None:
        if some := self._some(who):
            huge = len(who.regions[some[0]]) >= 512
            advice = [word for word in ADVICE if word != "free" or not huge]
            if huge and some[0] not in self.backed:
                advice += HUGE_ADVICE
                if self.random.random() < 0.3:
                    some = some[0], Pages.of(range(len(who.regions[some[0]])))
            self.step(who, "madvise", *some, self.random.choice(advice))

    def mremap(self, who: Process) -> None:
        names = [
            name for name, access in who.regions.items() if len(access) <= 64 or self.random.random() < 0.3
        ]
        if names:
            name = self.random.choice(sorted(names))
            size = len(who.regions[name])
            # not of the same size (Linux 6.17 moves several mappings then), nor past a file's end
            pages = self.random.randint(1, max(1, size - 1 if name in self.backed else max(40, size)))
            if pages == size:
                return
            self.step(who, "mremap", name, pages)
            access = who.regions[name]
            who.regions[name] = (access + [access[-1]] * pages)[:pages]

    def _child(self, who: Process, op: str, regions: dict[str, list[str]]) -> Process | None:
        if self.processes >= MOST_PROCESSES:
            return None
        child = Process(f"p{self.processes}", who, regions)
        self.processes += 1
        self.alive.append(child)
        self.step(who, op, child.name)
        return child

    def fork(self, who: Process) -> None:
        self._child(who, "fork", {name: list(access) for name, access in who.regions.items()})

    def vfork(self, who: Process) -> None:
        if child := self._child(who, "vfork", who.regions):
            who.waits_for = child

    def exec(self, who: Process) -> None:
        self.step(who, "exec")
        who.regions = {}
        self._wake(who)

    def exit(self, who: Process) -> None:
        if len([each for each in self.alive if not each.waits_for]) > 1 or who.parent:
            if len(self.alive) == 1:
                return
            self.step(who, "exit")
            self.alive.remove(who)
            self.ended.append(who)
            self._wake(who)

    def _wake(self, child: Process) -> None:
        if child.parent and child.parent.waits_for is child:
            child.parent.waits_for = None

    def wait(self, who: Process) -> None:
        for child in self.ended:
            if child.parent is who:
                self.ended.remove(child)
                self.step(who, "wait", child.name)
                return
