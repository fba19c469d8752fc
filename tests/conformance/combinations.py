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


# Huge pages: what the combinations and scenarios at random meet too seldom.
HUGE = {
    name: parse(text)
    for name, text in {
        "collapse small": """
            p: map a anon 512
            p: write a 0-99
            p: madvise a 0-511 hugepage
            p: madvise a 0-511 collapse
            p: write a 3
            p: fork c
            c: write a 4
            p: write a 4
            """,
        "forked where a huge page was": """
            p: map a thp 512
            p: write a 0
            p: fork c
            c: madvise a 0-511 dontneed
            c: fork d
            """,
        "collapse without advice": """
            p: map a anon 512
            p: write a 0-99
            p: madvise a 0-511 collapse
            """,
        "collapse shared": """
            p: map a thp 512
            p: write a 0
            p: fork c
            c: write a 3-9
            c: madvise a 0-511 collapse
            c: write a 5
            p: write a 1
            """,
        "collapse shared by parent": """
            p: map a thp 512
            p: write a 0
            p: fork c
            c: write a 3-9
            p: madvise a 0-511 collapse
            c: write a 5
            p: write a 1
            """,
        "collapse readonly": """
            p: map a thp 1024
            p: write a 600
            p: read a 0
            p: mprotect a 600-700 r
            p: madvise a 0-1023 collapse
            p: mprotect a 0-1023 r
            p: madvise a 0-1023 collapse
            p: mprotect a 0-1023 rw
            p: write a 0-20,600-610
            """,
        "collapse readonly small": """
            p: map a thp 512
            p: madvise a 0-511 nohugepage
            p: write a 5-60
            p: read a 100-120
            p: mprotect a 0-511 r
            p: madvise a 0-511 hugepage
            p: madvise a 0-511 collapse
            p: mprotect a 0-511 rw
            p: write a 0-20
            """,
        "collapse empty": """
            p: map a thp 1024
            p: write a 600
            p: madvise a 0-1023 collapse
            p: madvise a 512-1023 collapse
            p: madvise a 5-20 collapse
            p: madvise a 5-512 collapse
            p: madvise a 512-520 collapse
            p: madvise a 0-3 collapse
            """,
        "collapse untouched": """
            p: map a thp 512
            p: madvise a 0-511 collapse
            """,
        "collapse of less than a huge page": """
            p: map a anon 24
            p: write a 0
            p: madvise a 0-23 collapse
            """,
        "collapse zeropages": """
            p: map a thp 512
            p: madvise a 0-511 nohugepage
            p: read a 0-10
            p: madvise a 0-511 hugepage
            p: madvise a 0-511 collapse
            p: write a 30
            p: madvise a 0-511 collapse
            """,
        "collapse hole": """
            p: map a thp 1024
            p: write a 0-3,600
            p: munmap a 700
            p: madvise a 0-1023 collapse
            p: madvise a 0-511 collapse
            """,
        "collapse locked": """
            p: map a thp 512
            p: madvise a 0-511 nohugepage
            p: mlock a 0-100
            p: madvise a 0-511 hugepage
            p: madvise a 0-511 collapse
            p: munlock a 0-511
            p: madvise a 0-511 collapse
            """,
        "collapse huge zero": """
            p: map a thp 512
            p: read a 0
            p: madvise a 0-511 collapse
            p: write a 3
            p: fork c
            c: munmap a 7
            c: madvise a 0-511 collapse
            """,
        "the huge zero page": """
            p: map a thp 512
            p: read a 3
            p: fork c
            c: write a 4
            p: munmap a 9
            p: write a 10-12
            p: read a 0-511
            """,
        "the last of two takes over what is left of a huge page": """
            p: map a thp 512
            p: write a 0
            p: fork c
            p: write a 3
            p: write a 3
            c: exit
            p: write a 4-9
            """,
        "the child is the last": """
            p: map a thp 512
            p: write a 0
            p: fork c
            c: write a 3
            p: exit
            c: write a 2-9
            """,
        "the last of three": """
            p: map a thp 512
            p: write a 0
            p: fork c
            p: fork d
            c: write a 3
            d: exit
            p: write a 5
            c: exit
            p: write a 4-9
            p: read a 0-511
            """,
        "split by a hole": """
            p: map a thp 512
            p: write a 0
            p: fork c
            p: munmap a 9
            p: write a 3
            c: munmap a 0-511
            p: write a 0-8,10-511
            p: fork d
            d: write a 1
            """,
        "shared again": """
            p: map a thp 512
            p: write a 0
            p: munmap a 9
            p: fork c
            c: write a 0-8
            c: exit
            p: write a 0-7
            p: fork d
            d: write a 1
            p: write a 1
            """,
        "a huge page of four processes": """
            p: map a thp 512
            p: write a 0
            p: fork c
            p: fork d
            p: fork e
            c: write a 1
            d: write a 2
            e: write a 3
            p: write a 4
            c: exit
            p: write a 5
            d: exit
            p: write a 6
            e: write a 7
            p: exit
            e: write a 8-20
            """,
        "the last process is one the folio does not know": """
            p: map a thp 512
            p: write a 0
            p: fork c
            c: fork d
            p: exit
            c: exit
            d: write a 0-4
            d: fork e
            e: write a 7
            d: write a 9
            e: exit
            d: write a 11
            """,
        "one the folio does not know splits its entry": """
            p: map a thp 512
            p: write a 0
            p: fork c
            c: fork d
            d: write a 1
            p: exit
            d: write a 2
            c: exit
            d: write a 3-9
            """,
        "given up in part": """
            p: map a thp 1024
            p: write a 0,600
            p: madvise a 10-20 dontneed
            p: write a 10-12
            p: madvise a 5-1020 dontneed
            p: write a 700
            p: madvise a 0-1023 dontneed
            p: write a 0
            """,
        "moved and grown": """
            p: map a thp 1024
            p: write a 0,600
            p: mremap a 1000
            p: write a 0-10,600-610
            p: mremap a 2000
            p: write a 1500
            """,
        "moved after a fork": """
            p: map a thp 1024
            p: write a 0,600
            p: fork c
            c: mremap a 700
            c: write a 3,600
            p: write a 3
            """,
        "protected in part": """
            p: map a thp 1024
            p: write a 0,600
            p: fork c
            p: mprotect a 3-700 r
            p: mprotect a 3-700 rw
            p: write a 0-1023
            c: exit
            p: write a 0-1023
            """,
        "wiped, and not forked": """
            p: map a thp 1024
            p: write a 0,600
            p: madvise a 512-1023 wipeonfork
            p: madvise a 0-511 dontfork
            p: fork c
            c: write a 700
            """,
        "a mapping of 700 pages": """
            p: map a anon 700
            p: madvise a 0-699 hugepage
            p: write a 0,600-610
            p: read a 620
            """,
        "freed lazily": """
            p: map a anon 20
            p: write a 0-9
            p: madvise a 0-19 free
            p: write a 0-3
            p: fork c
            p: madvise a 0-4 free
            c: madvise a 3-9 free
            c: write a 3-5
            p: write a 3-5
            p: mlock a 0
            p: madvise a 0-3 free
            """,
        "only private anonymous memory is freed lazily": """
            p: map a file 20
            p: madvise a 0-3 free
            p: map b shared 10
            p: madvise b 0-3 free
            """,
        "populated": """
            p: map a thp 1024
            p: madvise a 600-601 populate_read
            p: madvise a 0-1023 populate_write
            p: fork c
            c: madvise a 0-1023 populate_write
            """,
        "locked in part": """
            p: map a thp 1024
            p: mlock a 5-700
            p: munlock a 9
            p: fork c
            c: write a 0-9
            p: write a 600
            """,
        "the last page": """
            p: map a thp 512
            p: write a 0
            p: fork c
            p: exit
            c: munmap a 1-511
            c: write a 0
            """,
        "mappings of different anon_vmas": """
            p: map a anon 24
            p: mlock a 4-7
            p: write a 0-23
            p: munlock a 0-23
            p: mprotect a 10-12 r
            p: write a 8,14
            p: mprotect a 10-12 rw
            p: fork c
            c: mprotect a 10-12 r
            p: mremap a 6
            """,
        "mappings of a child that stay apart": """
            p: map a anon 24
            p: mlock a 4-7
            p: fork c
            c: mprotect a 3 r
            c: mprotect a 3 rw
            c: read a 3
            c: fork d
            c: mprotect a 0-3 r
            p: munlock a 4-7
            p: mprotect a 3 r
            p: mprotect a 3 rw
            p: mprotect a 0-3 r
            """,
        "five of them": """
            p: map a anon 3000
            p: madvise a 0-2999 hugepage
            p: write a 0-2999
            p: madvise a 100-2900 nohugepage
            p: madvise a 500-2000 dontneed
            p: write a 600-700
            p: madvise a 0-2999 hugepage
            p: write a 512,1024,1536
            p: madvise a 0-2999 collapse
            """,
    }.items()
}

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
