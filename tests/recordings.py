"""Recordings made by hand, with counts that are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clonal.observe.analyse import CAUSES, FAULT, OUTCOMES
from clonal.observe.record.file import Kind, Writer

HEAP, BUFFER, POOLS = 0x1000_0000, 0x7F00_0000_1000, 0x7E00_0000_0000
MAPS = (
    f"{HEAP:x}-{HEAP + (64 << 20):x} rw-p 00000000 00:00 0 [heap]\n"
    f"{BUFFER:x}-{BUFFER + (64 << 20) + 4096:x} rw-p 00000000 00:00 0 \n"
)
LIBC, PYTHON = "/usr/lib/x86_64-linux-gnu/libc.so.6", "/usr/lib/libpython3.13.so.1.0"
HOOK = "/usr/lib/python3/dist-packages/clonal/observe/record/hook.py"
SECOND = 1_000_000_000
PAGE = 4096
MACHINE = {"processor": "a test", "cores": 2, "memory": 8 << 30, "kernel": "6.18", "python": "CPython 3.13.0",
           "thp": "madvise"}  # fmt: skip
Stack = Sequence[tuple[str, str, int] | None]  # innermost first; None: a code object that is gone


class Recorded:
    """Writes a recording, chunk by chunk."""

    def __init__(self, path: Path, command: Sequence[str] = ("python", "app.py"), wall: float = 4e9) -> None:
        self.path = path
        self._writer = Writer(str(path))
        self._next = 0
        self._told: dict[int, tuple[int, int, int]] = {}  # stacks, types and faults of each process so far
        facts = {"command": list(command), "machine": MACHINE, "backend": "sigtrap", "depth": 64}
        facts |= {"time": 0, "wall": wall}
        self._writer.write(Kind.BEGIN, facts, pid=0)

    def process(self, pid: int, generation: int = 0, began: float = 0, **facts: object) -> None:
        told = {"parent": 1, "generation": generation, "argv": ["app.py"], "shared": 1000, "own": 3}
        self._told[pid] = 0, 0, 0
        self._writer.write(Kind.PROCESS, told | {"time": int(began * SECOND)} | facts, pid=pid)

    def copies(
        self, pid: int, pages: int, stack: Stack, cause: str = "reference count", kind: str = "", *,
        at: float = 1, where: int = 0, outcome: str = "copied", native: tuple[str, str] = (PYTHON, "eval"),
        lost: int = 0, fresh: int = 0,
    ) -> None:  # fmt: skip
        """So many pages, all alike; `where` 0: in a pool."""
        pool = not where
        stacks, types, faults = after = self._told.get(pid, (0, 0, 0))
        self._told[pid] = stacks + 1, types + bool(kind), faults + pages
        records = b"".join(
            FAULT.pack(
                int(at * SECOND) + page, (where or POOLS) + (self._next + page) * PAGE, 0xABC, 1, stacks + 1,
                types + 1 if kind else 0, CAUSES.index(cause), OUTCOMES.index(outcome), pool, 0,
            )
            for page in range(pages)
        )  # fmt: skip
        self._next += pages
        facts = {"stacks": [stack], "types": [kind] if kind else [], "symbols": {"abc": native}, "maps": MAPS}
        facts |= {"after": after}
        self._writer.write(Kind.FAULTS, facts | {"lost": lost, "fresh": fresh}, records, pid=pid)

    def ended(self, pid: int, at: float = 10) -> None:
        self._writer.write(Kind.END, {"time": int(at * SECOND), "dropped": 0}, pid=pid)

    def close(self, status: int | None = 0) -> Path:
        """The end of the recording; None: there is none, its recorder was killed."""
        if status is not None:
            self._writer.write(Kind.END, {"time": 10 * SECOND, "status": status}, pid=0)
        self._writer.close()
        return self.path


APP = """\
import os


def total(items):
    found = 0
    for item in items:
        found += len(item)
    return found


class Shop:
    def patch(self, buffer):
        buffer[0] = 1


def main():
    total(items)
    Shop().patch(buffer)
    gc.collect()


main()
"""


def shop(folder: Path, name: str = "shop.clonal", scale: int = 1) -> Path:
    """100 pages that the program copied (40 more with scale 2), by two children and their parent; others."""
    app = folder / "app.py"
    app.write_text(APP)
    file = str(app)
    module, in_total = ("<module>", file, 22), ("main", file, 17)
    made = Recorded(folder / name, ("python", file))
    made.process(100, shared=2000)
    made.process(101, generation=1, began=1, parent=100)
    made.copies(101, 40 * scale, (("total", file, 7), in_total, module), kind="str", at=2)
    made.copies(101, 20, (("total", file, 6), in_total, module), kind="Item", at=3)
    patch = (("Shop.patch", file, 13), ("main", file, 18), module)
    made.copies(101, 10, patch, "data", where=BUFFER, at=4, native=(LIBC, "memcpy"))
    made.process(102, generation=1, began=5, parent=100)
    made.copies(102, 17, (("total", file, 7), in_total, module), kind="str", at=6)
    made.copies(102, 3, (("total", file, 7), in_total, module), kind="str", at=7, outcome="copied or reused")
    made.copies(102, 8, (("hook.child", HOOK, 5), module), at=6)
    collect = (("main", file, 19), module)
    made.copies(100, 6, collect, "gc header", "dict", at=8, fresh=9)
    made.copies(100, 4, (), "data", where=HEAP, at=9, native=(LIBC, "malloc"))
    made.copies(100, 5, (None,), kind="Item", at=9, outcome="reused")
    made.ended(101, 5)
    made.ended(100, 10)
    return made.close()


def strange(folder: Path) -> Path:
    """Names that are long, wide, or hold what a terminal would obey."""
    recorded = Recorded(folder / ("r" * 90), ["python", "x" * 200])
    recorded.process(2**22, generation=12)
    deep = "/srv/" + "very_long_folder/" * 12
    for stack in (
        (("Outer.<locals>." * 9 + "f", deep + "module.py", 12345),),
        (("数え上げる関数" * 8, deep + "店/売り場.py", 3), ("main", "/srv/app.py", 1)),
        (("red\x1b[31m\nred\udcff", "/srv/a;b c.py", 1),),
        tuple((f"level{number}", f"/srv/level{number}.py", number) for number in range(1, 65)),
        (),
    ):
        recorded.copies(2**22, 1234, stack, kind="a.very.long.module.name.Type" * 3)
    return recorded.close()
