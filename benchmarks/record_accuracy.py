"""Whether `clonal record` finds each copied page, with its cause and type: programs whose copies are known.

The truth is not the recorder's: the page map of the program's child is read from outside, before and after
its work, with frame numbers (so this needs root). A page was copied when it has another frame after than it
shared before.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clonal.kernel import procfs
from clonal.observe.analyse import KERNEL, Copy, load

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.support import Interpreter, ordinary_interpreter

WORKS = Path(__file__).with_name("record_works.py")
PAGE = 4096
PRESENT, FILE, EXCLUSIVE, FRAME = 1 << 63, 1 << 61, 1 << 56, (1 << 55) - 1
LIBRARY = """
char table[4096 * 4096] = {1};
long table_size = sizeof table;
void write_table(void) { for (long i = 0; i < table_size; i += 4096) table[i] = 2; }
"""
REFERENCES, HEADERS = "reference count", "gc header"
RIGHT: dict[str, set[tuple[str, str]]] = {
    "float": {(REFERENCES, "float")},
    "str": {(REFERENCES, "str")},
    "tuple": {(REFERENCES, "tuple")},
    "instance": {(REFERENCES, "Node")},
    "gc list": {(HEADERS, "list")},
    "gc dict": {(HEADERS, "dict"), (HEADERS, "list")},
    "gc instance": {(HEADERS, "Node")},
    "free": {("allocator metadata", ""), (REFERENCES, "bytes")},
    "first call": {("interpreter internals", "code")},
    "bytearray": {("data", "")},
    "numpy": {("data", "")},
    "list slots": {("data", "")},
    "readinto": {("data", "")},
    ".data": {("data", "")},
}
Pages = npt.NDArray[np.uint64]


@dataclass
class Backend:
    """One way to record, as one user."""

    name: str
    backend: str
    user: str | None = None


BACKENDS = (
    Backend("sigtrap, root", "sigtrap"),
    Backend("sigtrap, nobody", "sigtrap", "nobody"),
    Backend("snapshot, root", "snapshot"),
    Backend("snapshot, nobody", "snapshot", "nobody"),
    Backend("bpf, root", "bpf"),
)


@dataclass
class Result:
    """Of one program, recorded one way."""

    work: str
    truth: int = 0  # pages copied
    attributed: int = 0
    matched: int = 0  # attributed and true
    right: int = 0  # with the cause and type that they must have
    judged: int = 0
    wrong: Counter[tuple[str, str]] = field(default_factory=Counter)


@dataclass
class Look:
    """The private memory of a process at a time."""

    time: int
    pages: Mapping[int, int]  # page number → entry
    files: set[int]  # those of private mappings of files


def look(pid: int) -> Look:
    """Once it is quiet: two readings are the same."""
    while True:
        now = time.monotonic_ns()
        first, second = _entries(pid), _entries(pid)
        if first == second:
            return Look(now, *first)
        time.sleep(0.001)  # it has not come to its wait yet


def _entries(pid: int) -> tuple[dict[int, int], set[int]]:
    found: dict[int, int] = {}
    files: set[int] = set()
    maps = procfs.parse_maps(Path(f"/proc/{pid}/maps").read_bytes())
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as file:
        for vma in maps:
            if not vma.private or vma.path.startswith("[v"):
                continue
            file.seek(vma.start // PAGE * 8)
            entries = np.frombuffer(file.read(vma.size // PAGE * 8), np.uint64)
            there = np.flatnonzero(entries & np.uint64(PRESENT))
            numbers = (there + vma.start // PAGE).tolist()
            found.update(zip(numbers, entries[there].tolist(), strict=True))
            if vma.inode:
                files.update(range(vma.start // PAGE, vma.end // PAGE))
    return found, files


def copied(before: Look, after: Look) -> set[int]:
    """Pages that are a frame of this process's own after, and were another's or a file's before."""
    zero = Counter(entry & FRAME for entry in before.pages.values()).most_common(1)[0]
    zeroes = {zero[0]} if zero[1] > 1 else set()
    found = set()
    for page, entry in after.pages.items():
        was = before.pages.get(page)
        if entry & FILE or (was is None and page not in after.files):
            continue
        if was is None or ((was & FILE or (was ^ entry) & FRAME) and was & FRAME not in zeroes):
            found.add(page)
    return found


def measure(work: str, way: Backend, folder: Path) -> Result:
    """Records the program and compares."""
    environment = {"RECORD_WORKS_LIBRARY": str(library(folder)), "PYTHONHASHSEED": "0"}
    for name in ("ready", "ready-go", "done", "done-go"):
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name, 0o666)
        os.chmod(folder / name, 0o666)
    path = folder / "r.rec"
    for each in path, folder / "full":
        each.unlink(missing_ok=True)
    process = start(work, way, folder, environment)
    pid, *ranges = (folder / "ready").read_text().split()
    pages = set(np.fromfile(folder / "full", np.int64).tolist())
    before = look(int(pid))
    (folder / "ready-go").write_text("")
    (folder / "done").read_text()
    after = look(int(pid))
    (folder / "done-go").write_text("")
    if process.wait():
        raise RuntimeError(f"{work} by {way.name}: exit status {process.returncode}")
    copies = [copy for copy in load(path).copies if copy.pid == int(pid) and copy.outcome != "reused"]
    return compare(work, way, copies, (before, after), [parsed(each) for each in ranges], pages)


def start(work: str, way: Backend, folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    python = ordinary_interpreter() if way.user else Interpreter(sys.executable, {})
    record = [python.path, "-m", "clonal", "record", "--backend", way.backend, "-o", str(folder / "r.rec")]
    return subprocess.Popen(
        [*record, "--", python.path, str(folder / WORKS.name), work, str(folder)],
        env=os.environ | python.env | environment,
        cwd=folder,
        user=way.user,
        group=pwd.getpwnam(way.user).pw_gid if way.user else None,
        extra_groups=[] if way.user else None,
        stderr=subprocess.DEVNULL,
    )


def parsed(text: str) -> range:
    """Page numbers."""
    first, last = (int(part, 16) // PAGE for part in text.split("-"))
    return range(first, last)


def compare(
    work: str,
    way: Backend,
    copies: Sequence[Copy],
    looks: tuple[Look, Look],
    ranges: Sequence[range],
    full: set[int],
) -> Result:
    before, after = looks
    full = full or {page for each in ranges for page in each}
    true = {page for page in copied(before, after) if within(page, ranges)}
    found = {}
    for copy in copies:
        timed = way.backend != "snapshot" and (copy.library, copy.symbol) != KERNEL
        inside = (
            before.time <= copy.time <= after.time if timed else bool(ranges) or way.backend == "snapshot"
        )
        if way.backend == "snapshot":  # nor what the child had copied before
            inside = not before.pages.get(copy.address // PAGE, 0) & EXCLUSIVE
        if inside and within(copy.address // PAGE, ranges):
            found.setdefault(copy.address // PAGE, copy)
    made = Result(work, len(true), len(found), len(true & found.keys()))
    for page in true & found.keys() & full if way.backend != "snapshot" else ():
        kind = found[page].cause, found[page].type.rpartition(".")[2]
        good = kind in RIGHT[work] and (
            work != "free" or (page % 4 == 0) == (kind[0] == "allocator metadata")
        )
        made.judged += 1
        made.right += good
        made.wrong[kind] += not good
    return made


def within(page: int, ranges: Sequence[range]) -> bool:
    return not ranges or any(page in each for each in ranges)


def library(folder: Path) -> Path:
    """Compiled once."""
    made = folder / "libtable.so"
    if not made.exists():
        (folder / "table.c").write_text(LIBRARY)
        subprocess.run(
            ["cc", "-O1", "-shared", "-fPIC", "-o", str(made), str(folder / "table.c")], check=True
        )
    return made


def results(
    works: Sequence[str], ways: Sequence[Backend] = BACKENDS
) -> Iterator[tuple[Backend, list[Result]]]:
    """Of each backend, of each program."""
    with tempfile.TemporaryDirectory(prefix="clonal-") as name:
        folder = Path(name)
        folder.chmod(0o777)
        (folder / WORKS.name).write_bytes(WORKS.read_bytes())
        for way in ways:
            yield way, [measure(work, way, folder) for work in works]


if __name__ == "__main__":
    chosen = sys.argv[1:] or list(RIGHT)
    for way, found in results(chosen):
        for each in found:
            print(
                f"{way.name:18} {each.work:12} {each.truth:6} {each.attributed:6} {each.matched:6} "
                f"{each.attributed / max(each.truth, 1):.4f} right {each.right}/{each.judged} "
                f"{[(k, n) for k, n in each.wrong.most_common(4) if n]}",
                flush=True,
            )
