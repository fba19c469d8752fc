"""Callers and what they call, with the pages copied below: the tree behind the flame graph too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.cells import cell_len

from clonal.observe.analyse import Frame
from clonal.observe.copies import OUTER
from clonal.observe.report.count import Row, Tally
from clonal.observe.report.names import Names, is_python
from clonal.observe.report.text import BOLD, COLOURS, DIM, Line, amount, fit, fit_place, percent
from clonal.report.words import share

LEAST = 0.01  # share of all pages from which on a line is shown


@dataclass
class Node:
    """A line, called from its parent's."""

    frame: Frame | None = None  # None: the root
    pages: int = 0
    children: dict[Frame, Node] = field(default_factory=dict)
    itself: Counter[tuple[str, str, int]] = field(default_factory=Counter)  # cause, type, pid

    def ordered(self) -> list[Node]:
        """Children, most pages first."""
        return sorted(self.children.values(), key=lambda node: (-node.pages, node.frame or OUTER))


def tree(made: Tally) -> Node:
    """All stacks in one."""
    root = Node()
    for row, pages in made.rows.items():
        node = root
        node.pages += pages
        for frame in frames(row):
            node = node.children.setdefault(frame, Node(frame))
            node.pages += pages
        node.itself[row.cause, row.type, row.pid] += pages
    return root


def frames(row: Row) -> list[Frame]:
    """From the outermost to the innermost, which may be a function of C."""
    found = [*reversed(row.stack)]
    if not found or (row.symbol and not is_python(row.library)):
        found.append(row.native)
    return found


def text(made: Tally, width: int, least: float = LEAST) -> Iterator[Line]:
    """The tree as lines. A line that is called from one place only stands below it without an indent."""
    root = tree(made)
    what = f"callers, and below them what they call; from {share(least)} on"
    yield ((fit(f"{'pages':>10}{'copied':>11}{'share':>8}  {what}", width).rstrip(), DIM),)
    yield from _Text(Names(made.files()), root.pages, least * root.pages, width).below(root, "")


@dataclass(frozen=True)
class _Text:
    """What all lines of a tree have in common."""

    names: Names
    whole: int
    least: float  # pages
    width: int

    def below(self, node: Node, indent: str) -> Iterator[Line]:
        """The lines of what a line calls."""
        children = node.ordered()
        shown = [child for child in children if child.pages >= self.least]
        rest = sum(child.pages for child in children[len(shown) :])
        more = rest >= self.least and len(shown) < len(children)
        fork = len(shown) + more > 1
        for child in shown:
            last = child is shown[-1] and not more
            inner, times = _unrolled(child)
            yield self._line(inner, times, indent + (("└ " if last else "├ ") if fork else ""))
            yield from self.below(inner, indent + (("  " if last else "│ ") if fork else ""))
        if more:
            count = f"{indent}{'└ ' if fork else ''}… {len(children) - len(shown):,} more"
            yield ((f"{self._figures(rest)}  {count}", DIM),)

    def _line(self, node: Node, times: int, indent: str) -> Line:
        assert node.frame is not None
        figures = self._figures(node.pages) + "  "
        room = max(self.width - len(figures) - len(indent), 12)
        function = self.names.function(node.frame) + (f" × {times}" if times > 1 else "")
        place = self.names.place(node.frame)
        label = (fit_place(function, place, room) if place else fit(function, room)).rstrip()
        why, colour = _why(node) if node.itself.total() >= max(self.least, 1) else ("", "")
        if cell_len(label + why) > room:
            why = ""
        return [(figures, ""), (indent, DIM), (label, BOLD if colour else ""), (why, colour)]

    def _figures(self, pages: int) -> str:
        return f"{pages:>10,}{amount(pages):>11}{percent(pages, self.whole):>8}"


def _unrolled(node: Node) -> tuple[Node, int]:
    """The last of a line's calls of itself from nowhere else, and how many they are."""
    times = 1
    while not node.itself and list(node.children) == [node.frame]:
        (node,) = node.children.values()
        times += 1
    return node, times


def _why(node: Node) -> tuple[str, str]:
    """The cause of most of what a line copied itself, and its colour."""
    causes: Counter[str] = Counter()
    for (cause, _, _), pages in node.itself.items():
        causes[cause] += pages
    cause, pages = min(causes.items(), key=lambda item: (-item[1], item[0]))
    text = f"  · {cause}" + (f" {percent(pages, causes.total())}" if len(causes) > 1 else "")
    return text, COLOURS.get(cause, "cyan")
