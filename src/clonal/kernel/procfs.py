"""What /proc says about a process: typed readers, one parse for each file, no policy.

`pid=None` means the calling process. Errors are translated once, here: a process that is gone
raises `ProcessLookupError`, one that belongs to somebody else `PermissionError`, both naming it.
Sizes are in bytes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from array import array

PAGE = os.sysconf("SC_PAGE_SIZE")

# Bits of a pagemap entry (Documentation/admin-guide/mm/pagemap.rst).
PM_PRESENT = 1 << 63
PM_SWAP = 1 << 62
PM_FILE = 1 << 61  # page cache or shared anonymous memory
PM_GUARD = 1 << 58  # MADV_GUARD_INSTALL; such a page also shows as swapped
PM_UFFD_WP = 1 << 57
PM_EXCLUSIVE = 1 << 56  # mapped by this process alone
PM_SOFT_DIRTY = 1 << 55
PM_PFN = (1 << 55) - 1  # zero without CAP_SYS_ADMIN


class Vma(NamedTuple):
    """One line of /proc/PID/maps."""

    start: int
    end: int
    perms: str
    offset: int
    dev: str
    inode: int
    path: str

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def private(self) -> bool:
        return self.perms[3] == "p"

    @property
    def writable(self) -> bool:
        return self.perms[1] == "w"

    @property
    def anonymous(self) -> bool:
        """Backed by no file ([heap] and [stack] too)."""
        return self.inode == 0 and not self.path.startswith("/")


class Smap(NamedTuple):
    """One entry of /proc/PID/smaps: the mapping, its counters in bytes, its VmFlags."""

    vma: Vma
    sizes: Mapping[str, int]
    flags: frozenset[str]


class Stat(NamedTuple):
    """The fields of /proc/PID/stat that this package uses; times in clock ticks."""

    pid: int
    comm: str
    state: str
    ppid: int
    minflt: int
    cminflt: int
    majflt: int
    cmajflt: int
    utime: int
    stime: int
    num_threads: int
    starttime: int
    vsize: int
    rss: int
    start_code: int  # 1 and the next 0 for who may not look into the process (fs/proc/array.c do_task_stat)
    start_stack: int


class Thread(NamedTuple):
    """A thread of a process, by the name it gave itself."""

    tid: int
    name: str


@dataclass(frozen=True, slots=True)
class Status:
    """/proc/PID/status: the text of each field, read as what it is by these methods."""

    fields: dict[str, str]

    def __getitem__(self, field: str) -> str:
        return self.fields[field]

    def integer(self, field: str) -> int:
        """The first number of a field such as Threads, PPid or Uid."""
        return int(self.fields[field].split()[0])

    def size(self, field: str) -> int:
        """A field in kB as bytes; 0 where the kernel leaves it out (a zombie has no memory)."""
        text = self.fields.get(field)
        return int(text.split()[0]) * 1024 if text else 0

    def mask(self, field: str) -> int:
        """A bit mask such as CapEff or SigBlk."""
        return int(self.fields[field], 16)


def _directory(pid: int | None) -> str:
    return "/proc/self" if pid is None else f"/proc/{pid}"


def translated(error: OSError, pid: int | None, name: str) -> OSError:
    """The error a caller should see: who is gone, or whose data may not be read."""
    path = f"{_directory(pid)}/{name}"
    if error.errno == errno.ESRCH or (error.errno == errno.ENOENT and not os.path.isdir(_directory(pid))):
        if not os.path.isdir("/proc/self"):
            return FileNotFoundError(errno.ENOENT, "/proc is not mounted", path)
        return ProcessLookupError(errno.ESRCH, f"process {pid} is gone")
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionError(
            error.errno, f"process {pid} may not be inspected by user {os.geteuid()}", path
        )
    return error


def read(name: str, pid: int | None = None) -> bytes:
    """The content of /proc/PID/`name`."""
    try:
        with open(f"{_directory(pid)}/{name}", "rb", buffering=0) as file:
            return file.readall()
    except OSError as error:
        raise translated(error, pid, name) from None


def _lines(content: bytes) -> list[bytes]:
    return content.split(b"\n")[:-1]  # not splitlines(): a file's name may hold a carriage return


def _parse_vma(line: bytes) -> Vma:
    addresses, perms, offset, dev, inode, *path = line.split(None, 5)
    start, end = addresses.split(b"-")
    name = os.fsdecode(path[0].rstrip(b"\n").replace(rb"\012", b"\n")) if path else ""
    return Vma(int(start, 16), int(end, 16), perms.decode(), int(offset, 16), dev.decode(), int(inode), name)


def maps(pid: int | None = None) -> list[Vma]:
    """The mappings of a process by address; none for a zombie."""
    return parse_maps(read("maps", pid))


def parse_maps(content: bytes) -> list[Vma]:
    """The mappings that the content of a /proc/PID/maps tells of."""
    return [_parse_vma(line) for line in _lines(content)]


def vma_count(pid: int | None = None) -> int:
    """How many mappings a process has."""
    return read("maps", pid).count(b"\n")


def smaps(pid: int | None = None, seen: dict[bytes, Vma] | None = None) -> list[Smap]:
    """The mappings of a process with what of each is in memory. The kernel walks every page
    table for this: some 10 ms per GB. `seen`: mappings by their lines, which processes that were
    forked have in common; added to."""
    import re  # not loaded into a template for this

    seen = {} if seen is None else seen
    content = read("smaps", pid)
    headings = list(re.finditer(rb"^[0-9a-f]+-[0-9a-f]+ .*\n", content, re.MULTILINE))  # "start-end perms …"
    ends = [each.start() for each in headings[1:]] + [len(content)]
    known: dict[bytes, tuple[Mapping[str, int], frozenset[str]]] = {}  # thousands of small ones say the same
    found = []
    for heading, end in zip(headings, ends, strict=False):  # no heading at all where it has ended
        body = content[heading.end() : end]
        if (figures := known.get(body)) is None:
            figures = known[body] = _figures(body)
        if (vma := seen.get(heading[0])) is None:
            vma = seen[heading[0]] = _parse_vma(heading[0])
        found.append(Smap(vma, *figures))
    return found


def _figures(body: bytes) -> tuple[Mapping[str, int], frozenset[str]]:
    """What follows a heading: counters, and VmFlags."""
    pairs = {key: value for key, _, value in (line.partition(b":") for line in _lines(body))}
    flags = pairs.pop(b"VmFlags", b"").decode().split()
    return {key.decode(): _size(value) for key, value in pairs.items()}, frozenset(flags)


def _size(value: bytes) -> int:
    words = value.split()
    return int(words[0]) * 1024 if len(words) == 2 else int(words[0])


def smaps_rollup(pid: int | None = None) -> dict[str, int]:
    """The counters of smaps summed over the process."""
    try:
        lines = read("smaps_rollup", pid).splitlines()[1:]
    except FileNotFoundError:  # a /proc that is not Linux's own, or a kernel before 4.14
        return _sum_smaps(pid)
    pairs = (line.partition(b":") for line in lines)
    return {key.decode(): _size(value) for key, _, value in pairs}


def _sum_smaps(pid: int | None) -> dict[str, int]:
    total: dict[str, int] = {}
    for entry in smaps(pid):
        for key, size in entry.sizes.items():
            total[key] = total.get(key, 0) + size
    return total


def status(pid: int | None = None) -> Status:
    """/proc/PID/status."""
    lines = read("status", pid).decode(errors="surrogateescape").splitlines()
    pairs = (line.partition(":") for line in lines)
    return Status({key: value.strip() for key, _, value in pairs})


def stat(pid: int | None = None) -> Stat:
    """/proc/PID/stat."""
    text = read("stat", pid).decode(errors="surrogateescape")
    head, _, tail = text.rpartition(")")  # the command's name may itself hold ") "
    number, _, comm = head.partition(" (")
    field = tail.split()
    ints = {index: int(field[index]) for index in (1, 7, 8, 9, 10, 11, 12, 17, 19, 20, 21, 23, 25)}
    return Stat(
        int(number), comm, field[0], ints[1], ints[7], ints[8], ints[9], ints[10], ints[11], ints[12],
        ints[17], ints[19], ints[20], ints[21] * PAGE, ints[23], ints[25],
    )  # fmt: skip


def limit(name: str, pid: int | None = None) -> int | None:
    """A soft resource limit by its name in /proc/PID/limits, such as "Max processes"; None if none."""
    for line in read("limits", pid).decode().splitlines():
        if line.startswith(f"{name} "):
            soft = line[len(name) :].split()[0]
            return None if soft == "unlimited" else int(soft)
    raise KeyError(name)


def threads(pid: int | None = None) -> list[Thread]:
    """The threads of a process, the first one first; one that ends meanwhile is left out."""
    try:
        tids = [int(entry) for entry in os.listdir(f"{_directory(pid)}/task")]  # proc_task_readdir's order
    except OSError as error:
        raise translated(error, pid, "task") from None
    found = []
    for tid in tids:
        try:
            name = read(f"task/{tid}/comm", pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
        found.append(Thread(tid, name.decode(errors="surrogateescape").rstrip("\n")))
    return found


def pss(pid: int | None = None) -> int:
    """The process's proportional share of the memory it maps."""
    return smaps_rollup(pid).get("Pss", 0)


def pss_total(pids: Iterable[int]) -> int:
    """What a family costs: the proportional shares of these processes, each page counted once.
    A process that has ended meanwhile costs nothing."""
    total = 0
    for pid in pids:
        try:
            total += pss(pid)
        except ProcessLookupError:
            continue
    return total


def pagemap(start: int, end: int, pid: int | None = None) -> array[int]:
    """The pagemap entries of the pages in [start, end)."""
    from array import array  # a library of its own, and every mapping costs a template's forks

    entries = array("Q")
    for data in _pagemap_chunks([(start, end)], pid):
        entries.frombytes(data)
    return entries


_CHUNK = PAGE << 20  # 8 MB of entries at a time: a sanitizer's shadow spans terabytes


def _pagemap_chunks(ranges: Iterable[tuple[int, int]], pid: int | None) -> Iterator[bytes]:
    try:
        fd = os.open(f"{_directory(pid)}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        try:
            for start, end in ranges:
                for at in range(start, end, _CHUNK):
                    yield os.pread(fd, (min(at + _CHUNK, end) - at) // PAGE * 8, at // PAGE * 8)
        finally:
            os.close(fd)
    except OSError as error:
        raise translated(error, pid, "pagemap") from None


# The top byte of an entry says it all: present (0x80), not of a file (0x20), of nobody else (0x01).
_IS_PRIVATE_ANON = bytes((flags & 0xA1) == 0x81 for flags in range(256))


def private_bytes(pid: int | None = None) -> int:
    """Anonymous memory in RAM that this process maps alone: what it has written and would give back.

    The Private_* counters of smaps are no such figure: a page of an image that only one process
    happens to map counts as private there, though it is the file's and everybody's.
    """
    ranges = [(vma.start, vma.end) for vma in maps(pid) if vma.private and "r" in vma.perms]
    chunks = _pagemap_chunks(ranges, pid)
    return PAGE * sum(data[7::8].translate(_IS_PRIVATE_ANON).count(1) for data in chunks)
