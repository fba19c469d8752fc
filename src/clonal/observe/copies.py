"""The copied pages of a recording, as many as a million: what some have in common is kept once."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, overload

OUTCOMES = ("copied", "reused", "copied or reused", "copied from a file")
REUSED = OUTCOMES.index("reused")


class Frame(NamedTuple):
    """A line of Python."""

    function: str
    file: str
    line: int


UNKNOWN = Frame("?", "?", 0)
OUTER = Frame("(callers further out)", "", 0)  # of a stack that is longer than what is recorded of it
Stack = tuple[Frame, ...]  # innermost first


class What(NamedTuple):
    """All of a copied page but when and where."""

    pid: int
    stack: Stack
    cause: str
    outcome: str
    type: str  # of the object written to, "" if it is none
    category: str  # kind of memory
    library: str  # whose code wrote
    symbol: str  # of the C function, "" if it has no name
    own: bool  # by the recording itself

    @property
    def copied(self) -> bool:
        """Whether the kernel copied a page, for all that is known."""
        return self.outcome != OUTCOMES[REUSED]


class Copy(NamedTuple):
    """One page that was copied, or written to where it was found to be one's own by then (`outcome`)."""

    pid: int
    time: int  # CLOCK_MONOTONIC, ns
    address: int
    stack: Stack
    cause: str
    outcome: str
    type: str
    category: str
    library: str
    symbol: str
    own: bool

    @property
    def frame(self) -> Frame:
        """The innermost line of Python."""
        return self.stack[0] if self.stack else Frame(self.symbol or "?", self.library or "?", 0)


class Copies(Sequence[Copy]):
    """Copies in the order of the file, 20 bytes each. `what` has for each its number in `kinds`."""

    def __init__(self) -> None:
        self.kinds: list[What] = []
        self.what = array("I")
        self.times = array("Q")
        self.addresses = array("Q")

    def add(self, kind: What) -> int:
        """The number of a kind that was not there."""
        self.kinds.append(kind)
        return len(self.kinds) - 1

    def counts(self) -> Iterator[tuple[int, What, int]]:
        """Each kind with its number, and how many pages are of it."""
        for number, pages in Counter(self.what).items():
            yield number, self.kinds[number], pages

    def __len__(self) -> int:
        return len(self.what)

    def __iter__(self) -> Iterator[Copy]:
        return self._made(zip(self.what, self.times, self.addresses, strict=True))

    @overload
    def __getitem__(self, at: int) -> Copy: ...
    @overload
    def __getitem__(self, at: slice) -> list[Copy]: ...
    def __getitem__(self, at: int | slice) -> Copy | list[Copy]:
        if isinstance(at, slice):
            return list(self._made(zip(self.what[at], self.times[at], self.addresses[at], strict=True)))
        (made,) = self._made([(self.what[at], self.times[at], self.addresses[at])])
        return made

    def _made(self, rows: Iterable[tuple[int, int, int]]) -> Iterator[Copy]:
        for number, time, address in rows:
            kind = self.kinds[number]
            yield Copy(kind.pid, time, address, *kind[1:])
