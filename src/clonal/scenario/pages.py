"""Sets of pages of a region, written as in `0-15,20`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Pages:
    """Page numbers as (first, count), ascending, with a gap between any two."""

    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, numbers: Iterable[int]) -> Pages:
        """The set of these page numbers."""
        ranges: list[tuple[int, int]] = []
        for number in sorted(set(numbers)):
            if ranges and sum(ranges[-1]) == number:
                ranges[-1] = (ranges[-1][0], ranges[-1][1] + 1)
            else:
                ranges.append((number, 1))
        return cls(tuple(ranges))

    @classmethod
    def parse(cls, text: str) -> Pages:
        """ValueError if `text` is not such a set."""
        spans = [_span(word) for word in text.split(",")]
        joined: list[tuple[int, int]] = []
        for first, count in sorted(spans):
            if joined and first <= sum(joined[-1]):
                start = joined[-1][0]
                joined[-1] = (start, max(sum(joined[-1]), first + count) - start)
            else:
                joined.append((first, count))
        return cls(tuple(joined))

    def __str__(self) -> str:
        return ",".join(f"{a}-{a + n - 1}" if n > 1 else str(a) for a, n in self.ranges)

    def __iter__(self) -> Iterator[int]:
        for first, count in self.ranges:
            yield from range(first, first + count)

    def __len__(self) -> int:
        return sum(count for _, count in self.ranges)

    @property
    def last(self) -> int:
        return sum(self.ranges[-1]) - 1

    @property
    def numbers(self) -> NDArray[np.int64]:
        return np.concatenate([np.arange(a, a + n, dtype=np.int64) for a, n in self.ranges])


def _span(word: str) -> tuple[int, int]:
    first, dash, last = word.partition("-")
    if not (first.isdecimal() and (last.isdecimal() if dash else True)):
        raise ValueError(f"{word!r} is no page number or range")
    count = int(last) - int(first) + 1 if dash else 1
    if count < 1:
        raise ValueError(f"the range {word} runs backwards")
    return int(first), count
