"""Steps and scenarios: what a process does to its memory, in words that two machines understand.

    parent: map heap anon 64
    parent: write heap 0-15
    parent: fork child
    child: read heap 0-63      # a comment
    child: exit
    parent: wait child

One step a line: the process, a colon, the operation and its arguments. A process that no step forked
is there from the start, with nothing mapped. `str` of what `parse` read gives the same text, without
comments.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from clonal.scenario.errors import ScenarioError
from clonal.scenario.pages import Pages

KINDS = {
    "anon": "private anonymous memory in small pages",
    "thp": "private anonymous memory with MADV_HUGEPAGE",
    "noreserve": "private anonymous memory with MAP_NORESERVE",
    "file": "a private mapping of a file in the page cache",
    "memfd-image": "a private mapping of a memfd",
    "shared": "shared anonymous memory",
    "shared-file": "a shared mapping of a memfd",
    "guard": "private anonymous memory with PROT_NONE",
}
PROTS = ("none", "r", "rw", "rx", "rwx")
ADVICE = (
    "dontneed",
    "free",
    "hugepage",
    "nohugepage",
    "collapse",
    "populate_read",
    "populate_write",
    "dontfork",
    "dofork",
    "wipeonfork",
    "keeponfork",
)

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*\Z")


def _name(word: str) -> str:
    if not _NAME.match(word):
        raise ValueError(f"{word!r} is no name")
    return word


def _count(word: str) -> int:
    if not word.isdecimal() or not 0 < int(word) <= 1 << 35:
        raise ValueError(f"{word!r} is no number of pages")
    return int(word)


def _code(word: str) -> int:
    if not word.isdecimal() or int(word) > 255:
        raise ValueError(f"{word!r} is no exit status from 0 to 255")
    return int(word)


def _one_of(what: str, words: Iterable[str]) -> Callable[[str], str]:
    def choose(word: str) -> str:
        if word not in words:
            raise ValueError(f"{word!r} is no {what} ({', '.join(words)})")
        return word

    return choose


@dataclass(frozen=True)
class _Form:
    """The arguments of an operation; those after `needed` may be left out."""

    usage: str
    parts: tuple[Callable[[str], Any], ...] = ()
    needed: int = -1

    def parse(self, words: list[str]) -> tuple[Any, ...]:
        least = len(self.parts) if self.needed < 0 else self.needed
        if not least <= len(words) <= len(self.parts):
            raise ValueError("the arguments do not fit")
        return tuple(part(word) for part, word in zip(self.parts, words, strict=False))


FORMS = {
    "map": _Form("NAME KIND PAGES [FILE]", (_name, _one_of("kind", KINDS), _count, _name), 3),
    "munmap": _Form("NAME PAGES", (_name, Pages.parse)),
    "mremap": _Form("NAME PAGES", (_name, _count)),
    "mprotect": _Form("NAME PAGES PROT", (_name, Pages.parse, _one_of("protection", PROTS))),
    "madvise": _Form("NAME PAGES ADVICE", (_name, Pages.parse, _one_of("advice", ADVICE))),
    "mlock": _Form("NAME PAGES", (_name, Pages.parse)),
    "munlock": _Form("NAME PAGES", (_name, Pages.parse)),
    "read": _Form("NAME PAGES", (_name, Pages.parse)),
    "write": _Form("NAME PAGES", (_name, Pages.parse)),
    "fork": _Form("CHILD", (_name,)),
    "vfork": _Form("CHILD", (_name,)),
    "exec": _Form(""),
    "exit": _Form("[STATUS]", (_code,), 0),
    "wait": _Form("CHILD", (_name,)),
}


@dataclass(frozen=True)
class Step:
    """One operation of one process. `args` hold names, numbers and Pages."""

    process: str
    op: str
    args: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return " ".join([f"{self.process}:", self.op, *map(str, self.args)])


@dataclass(frozen=True)
class Scenario:
    """Steps in order."""

    steps: tuple[Step, ...]

    def __str__(self) -> str:
        return "".join(f"{step}\n" for step in self.steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)


def parse(text: str) -> Scenario:
    """Reads the text form; ScenarioError names the first line that is wrong and what to do."""
    from clonal.scenario.check import check

    numbered = []
    for number, line in enumerate(text.splitlines(), 1):
        if words := line.partition("#")[0].strip():
            numbered.append((number, _parse_step(number, words)))
    check(numbered)
    return Scenario(tuple(step for _, step in numbered))


def _parse_step(number: int, line: str) -> Step:
    process, colon, rest = line.partition(":")
    op, *words = rest.split() or [""]
    if not colon or not _NAME.match(process.strip()):
        raise ScenarioError(number, f"{line!r} names no process", "write PROCESS: OPERATION ARGUMENTS")
    if op not in FORMS:
        raise ScenarioError(number, f"there is no operation {op!r}", f"write one of {', '.join(FORMS)}")
    try:
        return Step(process.strip(), op, FORMS[op].parse(words))
    except ValueError as error:
        usage = f"{process.strip()}: {op} {FORMS[op].usage}".strip()
        raise ScenarioError(number, str(error), f"write {usage}") from None
