"""Every combination of access, moment, process and kind of memory, each as a scenario in which all
three processes then write and end, so that who copies and who reuses shows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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


# Outcomes that scenarios at random meet too seldom, each with the step that has it.
RARE = {
    ("munmap", "ok"): "p: munmap a 0-3",
    ("mprotect", "ENOMEM"): "p: munmap a 1\np: mprotect a 0-3 r",
    ("mlock", "ENOMEM"): "p: munmap a 1\np: mlock a 0-3",
    ("munlock", "ENOMEM"): "p: munmap a 1\np: munlock a 0-3",
    ("madvise", "ENOMEM"): "p: munmap a 1\np: madvise a 0-3 dontfork",
    ("madvise", "EINVAL"): "p: mlock a 0\np: madvise a 0-3 dontneed",
    ("madvise", "ok"): "p: mlock a 0-3\np: fork v\nv: madvise a 0-3 dontneed",
    ("read", "SIGSEGV"): "p: mprotect a 2 none\np: read a 0-3",
    ("write", "SIGSEGV"): "p: mprotect a 2 r\np: write a 0-3",
    ("mremap", "ok"): "p: mremap a 30\np: write a 2-26\nc: write a 0",
    ("mremap", "EFAULT"): "p: mprotect a 1 r\np: mremap a 3",
    ("exec", "ok"): "p: exec",
    ("vfork", "ok"): "p: vfork v\nv: write a 0\nv: exec",
    ("wait", "ok"): "p: fork v\nv: exit\np: wait v",
    ("munlock", "ok"): "p: mlock a 0-3\np: munlock a 1-2\np: madvise a 1-2 dontneed",
}


def rare(sizes: Iterable[int]) -> Iterator[Scenario]:
    """Each of these, with regions of these sizes."""
    for size in sizes:
        for text in RARE.values():
            yield parse(f"p: map a anon {size}\np: write a 0,3\np: fork c\n{text}\n")
