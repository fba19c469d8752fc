"""Every line that copied, with what it wrote to and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from clonal.observe.report.count import Tally
from clonal.observe.report.names import Names
from clonal.observe.report.text import BOLD, COLOURS, Line, amount, fit
from clonal.report.words import printable

COLUMNS = (("cause", 22), ("type", 14), ("kind of memory", 15))


def table(made: Tally) -> Iterator[Line]:
    """A row for each line, cause, type and kind of memory, over all processes; most pages first."""
    names = Names(made.files())
    found: Counter[tuple[str, str, str, str, str]] = Counter()
    for row, pages in made.rows.items():
        where = names.function(row.frame), names.place(row.frame)
        found[row.cause, row.type, row.category, *where] += pages
    heads = "".join(fit(name, width) for name, width in COLUMNS)
    yield ((f"{'pages':>10}{'copied':>11}  {heads}line", BOLD),)
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    for (cause, kind, category, function, place), pages in ordered:
        yield (
            (f"{pages:>10,}{amount(pages):>11}  ", ""),
            (fit(cause, COLUMNS[0][1]), COLOURS.get(cause, "")),
            (fit(fit(kind, 13), 14) + fit(category, 15) + printable(f"{function}  {place}"), ""),
        )
