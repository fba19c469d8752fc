"""Ways to fork, on the same machine otherwise: what each costs the caller, the child and memory, in counts.

`cow` is Linux, and compared with it page by page (tests/conformance). `image` is what `clonal.freeze()`
makes. `eager` is the Unix before copy-on-write. `shared_tables`, `async_copy` and `hardware` are no part of
Linux: they are models, after the papers that `published` names, with the same pages in the same processes as
`cow`, and the same flushes of TLBs: what they would save of these is not counted.
"""

from clonal.model.strategies.async_copy import AsyncCopy
from clonal.model.strategies.base import Born, Strategy, Work
from clonal.model.strategies.bill import Bill, bill
from clonal.model.strategies.cow import Cow
from clonal.model.strategies.eager import Eager
from clonal.model.strategies.hardware import Hardware
from clonal.model.strategies.image import Image
from clonal.model.strategies.shared_tables import SharedTables
from clonal.model.strategies.vfork import Vfork

STRATEGIES: dict[str, type[Strategy]] = {
    each.name: each for each in (Eager, Cow, Vfork, SharedTables, AsyncCopy, Image, Hardware)
}

__all__ = [
    "STRATEGIES",
    "AsyncCopy",
    "Bill",
    "Born",
    "Cow",
    "Eager",
    "Hardware",
    "Image",
    "SharedTables",
    "Strategy",
    "Vfork",
    "Work",
    "bill",
]
