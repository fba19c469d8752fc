"""The process that is to be cloned: what of it a fork, a write and a limit depend on."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from clonal.errors import Error
from clonal.kernel import procfs
from clonal.kernel.memory import fork_charge
from clonal.model import PAGE
from clonal.report.words import size

TABLE_SPAN = 512  # pages of one page table, and of one huge page
HUGE = TABLE_SPAN * PAGE
LIBRARY_VMAS, LIBRARY_PRIVATE = 5, 2  # mappings of a shared library, and those of them with relocated data
OWN_VMAS, OWN_PRIVATE = 3, 1  # beside heap and code: stack, vvar, vdso
IMAGE = "memfd:clonal"
MOST = 1 << 46  # bytes: half of what an address space has
MOST_VMAS = (1 << 31) - 1  # what vm.max_map_count can be
MOST_LIBRARIES = 500


class BadServer(Error):
    """A server that cannot be: `what` is the figure, `value` what was given."""

    def __init__(self, what: str, value: object, wanted: str) -> None:
        super().__init__(f"{what} is {value}, but must be {wanted}", what=what, value=value, wanted=wanted)


class NotMeasured(Error):
    """A process that cannot be measured."""

    def __init__(self, pid: int, why: str) -> None:
        super().__init__(f"process {pid} {why}", pid=pid, why=why)


@dataclass(frozen=True)
class Server:
    """`heap` and `code` in bytes: private writable memory, all of it written, and files mapped privately and
    never written. `vmas`: all mappings; `anon_vmas`: those with private pages, whose entries fork copies.
    `others`: private pages outside the heap. `image`: bytes of the heap that are a frozen image already;
    `huge_image`: whether it is, or would be, of huge pages. `python`: whether it is an interpreter, which
    writes some pages whatever it does."""

    heap: int
    code: int = 0
    vmas: int = OWN_VMAS + 2
    anon_vmas: int = OWN_PRIVATE + 1
    others: int = OWN_PRIVATE
    thp: bool = False
    image: int = 0
    huge_image: bool = True
    file_vmas: int | None = None  # mappings of files, where they were counted
    tables: int | None = None  # page tables of the private pages, where they were counted
    charge: int | None = None  # bytes that a fork commits, where they were counted
    python: bool = True
    name: str = "server"

    def __post_init__(self) -> None:
        for what in ("heap", "code", "others", "image"):
            if getattr(self, what) < 0:
                raise BadServer(what, getattr(self, what), "0 or more")
        if self.heap + self.image + self.code == 0:
            raise BadServer("heap", 0, "more than 0, or --code must: there is nothing to clone")
        for what in ("heap", "code", "image"):
            if getattr(self, what) >= MOST:
                raise BadServer(what, getattr(self, what), f"less than {size(MOST)}")
        if not 0 <= self.anon_vmas <= self.vmas:
            raise BadServer("vmas", self.vmas, f"at least {self.anon_vmas}, those with private pages")
        if self.vmas > MOST_VMAS:
            raise BadServer("vmas", self.vmas, f"at most {MOST_VMAS:,}")

    @staticmethod
    def of(heap: int, code: int, libraries: int = 0, vmas: int | None = None, thp: bool = False) -> Server:
        """A server by its sizes. Each library has 5 mappings, 2 of them with a private page."""
        if not 0 <= libraries <= MOST_LIBRARIES:
            raise BadServer("libraries", libraries, f"from 0 to {MOST_LIBRARIES:,}")
        private = OWN_PRIVATE + libraries * LIBRARY_PRIVATE
        least = OWN_VMAS + libraries * LIBRARY_VMAS + (heap > 0) + (code > 0)
        return Server(heap, code, least if vmas is None else vmas, private + (heap > 0), private, thp)

    @property
    def heap_pages(self) -> int:
        """Pages of the writable heap, image included: what the written share is of."""
        return -(-self.heap // PAGE) + self.image_pages

    @property
    def image_pages(self) -> int:
        return -(-self.image // PAGE)

    @property
    def code_pages(self) -> int:
        return -(-self.code // PAGE)

    @property
    def huge_pages(self) -> int:
        """Huge pages of the heap."""
        return self.heap // HUGE if self.thp else 0

    @property
    def small_pages(self) -> int:
        """Private pages of 4 KiB: the entries that fork copies."""
        return -(-self.heap // PAGE) - self.huge_pages * TABLE_SPAN + self.others

    @property
    def small_tables(self) -> int:
        """Page tables of these entries."""
        if self.tables is not None:
            return self.tables
        return -(-(self.small_pages - self.others) // TABLE_SPAN) + -(-self.others // 32)

    @property
    def thawed(self) -> Server:
        """The same with its image as private memory again: what every strategy but the image starts from."""
        if not self.image:
            return self
        charge = None if self.charge is None else self.charge + self.image
        return replace(self, heap=self.heap + self.image, image=0, tables=None, charge=charge)

    @property
    def committed(self) -> int:
        """Bytes that each fork commits (mm/vma.c accountable_mapping: private and writable)."""
        return self.heap + self.image + self.others * PAGE if self.charge is None else self.charge

    @property
    def mapped_files(self) -> int:
        """Mappings of files: where they were not counted, all but heap, stack and what the kernel maps."""
        return max(0, self.vmas - OWN_VMAS - (self.heap > 0)) if self.file_vmas is None else self.file_vmas

    def to_json(self) -> dict[str, Any]:
        """Its figures, sizes in bytes."""
        facts = {
            name: getattr(self, name)
            for name in ("name", "heap", "code", "image", "vmas", "anon_vmas", "thp")
        }
        return facts | {
            "private_pages": self.small_pages,
            "huge_pages": self.huge_pages,
            "commit": self.committed,
        }


def measure(pid: int) -> Server:
    """A live process, such as a template (`template.pid`), by /proc/PID. Raises NotMeasured."""
    if pid < 1:
        raise NotMeasured(pid, "cannot be: processes have numbers from 1")
    try:
        smaps = procfs.smaps(pid)
        charge = fork_charge(pid).total
        name = procfs.stat(pid).comm
    except ProcessLookupError:
        raise NotMeasured(pid, "is not running") from None
    except PermissionError:
        raise NotMeasured(pid, "is not ours to look at: run this as its user, or as root") from None
    except OSError as error:
        raise NotMeasured(pid, f"cannot be measured: {error.strerror or error}") from None
    if not smaps:
        raise NotMeasured(pid, "has no memory: a kernel thread, or one that has ended")
    private = [entry for entry in smaps if entry.vma.private]
    frozen = [entry for entry in private if IMAGE in entry.vma.path]
    image = sum(entry.vma.size - _of(entry, "Anonymous") for entry in frozen)  # resident or not
    copied = [entry for entry in private if _of(entry, "Anonymous") and "dc" not in entry.flags]
    heap = sum(_of(entry, "Anonymous") for entry in copied if entry.vma.writable)
    huge = sum(_of(entry, "AnonHugePages") for entry in copied)
    resident = sum(_of(entry, "Rss") for entry in copied)
    files = [entry for entry in private if IMAGE not in entry.vma.path]
    code = sum(_of(entry, "Rss") - _of(entry, "Anonymous") for entry in files)
    return Server(
        heap=heap,
        code=code,
        vmas=sum("dc" not in entry.flags for entry in smaps),
        anon_vmas=len(copied),
        others=(resident - heap) // PAGE,
        thp=huge > heap // 2,
        image=image,
        file_vmas=sum(entry.vma.path.startswith("/") for entry in smaps),
        tables=_tables(copied),
        charge=charge,
        python=any("python" in entry.vma.path for entry in smaps),
        name=f"{name} ({pid})" if pid != os.getpid() else name,
    )


def _of(entry: procfs.Smap, counter: str) -> int:
    return entry.sizes.get(counter, 0)


def _tables(entries: list[procfs.Smap]) -> int:
    """Page tables of what these mappings have present, by 2 MiB ranges; one of few pages has as many at
    most."""
    ranges: set[int] = set()
    for entry in entries:
        small = (_of(entry, "Rss") - _of(entry, "AnonHugePages")) // PAGE
        first, last = entry.vma.start // HUGE, (entry.vma.end - 1) // HUGE
        ranges.update(range(first, min(last + 1, first + small)))
    return len(ranges)
