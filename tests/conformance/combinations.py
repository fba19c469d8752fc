"""Every combination of access, moment, process and kind of memory, each as a scenario in which all
three processes then write and end, so that who copies and who reuses shows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from clonal.scenario import Scenario, parse

FAMILY = ("parent", "child", "grandchild")
OFFSPRING = dict(zip(FAMILY, ("child", "grandchild", "descendant"), strict=True))

# What the parent does first, before any fork.
KINDS = {
    "anonymous": "map m anon 24\nwrite m 0-11",
    "THP": "map m thp 1024\nwrite m 0",
    "private file": "map m file 40\nwrite m 0-3\nread m 4",
    "memfd image": "map m memfd-image 40\nwrite m 0-3\nread m 4",
    "shared": "map m shared 24\nwrite m 0-11",
    "zero-page read": "map m anon 24\nread m 0-11",
    "DONTFORK": "map m anon 24\nwrite m 0-11\nmadvise m 8-15 dontfork",
    "WIPEONFORK": "map m anon 24\nwrite m 0-11\nmadvise m 0-15 wipeonfork",
    "mlocked": "map m anon 24\nwrite m 0-3\nmlock m 0-11",
}
TOUCHED = {"THP": "0-3,600-602", "DONTFORK": "0-7,16-19"}


def combinations() -> Iterator[tuple[str, Scenario]]:
    """All of them, each with its name."""
    for access, moment, who, kind in product(("read", "write"), ("before", "after"), FAMILY, KINDS):
        yield f"{access} {moment} fork by the {who}, {kind}", _scenario(access, moment, who, kind)


def _scenario(access: str, moment: str, who: str, kind: str) -> Scenario:
    pages = TOUCHED.get(kind, "0-7,16-19")
    lines = [f"parent: {line}" for line in KINDS[kind].splitlines()]
    for process in FAMILY:
        act = [f"{process}: {access} m {pages}"] if process == who else []
        fork = [f"{process}: fork {OFFSPRING[process]}"]
        lines += act + fork if moment == "before" else fork + act
    lines += [f"child: write m {pages}", f"grandchild: read m {pages}", f"parent: write m {pages}"]
    lines += ["descendant: exit", "grandchild: wait descendant", f"grandchild: write m {pages}"]
    lines += ["child: exit", "parent: wait child", f"parent: read m {pages}", f"parent: write m {pages}"]
    return parse("\n".join(lines))
