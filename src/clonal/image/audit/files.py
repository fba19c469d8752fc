"""Files: clones share the open file description, and so its offset; buffers they have twice."""

from __future__ import annotations

from collections.abc import Iterator

from clonal.image.audit.buffers import pending
from clonal.image.audit.databases import is_database
from clonal.image.audit.descriptors import STANDARD, Descriptor
from clonal.image.audit.hazard import Hazard, listed
from clonal.image.audit.registry import Facts, check

TEXT = "_io:TextIOWrapper"
BUFFERED = ("_io:BufferedWriter", "_io:BufferedRandom")
IN_MEMORY = ("/memfd:", "/dev/shm/")  # meant to be shared


@check()
def offsets(facts: Facts) -> Iterator[Hazard]:
    """Regular files that are open for writing, or read half-way."""
    files = [one for one in facts.descriptors if _counts(one)]
    writable = [one for one in files if one.writable and not one.appending]
    halfway = [one for one in files if not one.writable and 0 < one.offset < one.size]
    appending = [one for one in files if one.writable and one.appending]
    if writable or halfway:
        yield Hazard(
            "shared-file-offset",
            "warning",
            listed(_text(one) for one in writable + halfway),
            "open it in the clone, or use os.pread/os.pwrite: a read or write in one clone moves the "
            "position of all",
        )
    if appending:
        yield Hazard(
            "append-file",
            "note",
            listed(_text(one) for one in appending),
            "safe for whole lines (O_APPEND); open one per clone to tell their lines apart",
        )


def _counts(one: Descriptor) -> bool:
    return (
        one.regular
        and one.fd not in STANDARD
        and not one.target.startswith(IN_MEMORY)
        and not is_database(one)
    )


def _text(one: Descriptor) -> str:
    how = "appends to" if one.appending else "writes" if one.writable else "reads"
    return f"fd {one.fd} {how} {one.target} at {one.offset} of {one.size}"


@check(TEXT, *BUFFERED)
def unflushed(facts: Facts) -> Iterator[Hazard]:
    """Bytes in a file object's buffer: each process that flushes writes them."""
    files = [one for spec in (TEXT, *BUFFERED) for one in facts.heap.instances(spec)]
    found = [text for one in files if (text := pending(one))]
    if found:
        yield Hazard(
            "unflushed-data",
            "warning",
            listed(found),
            "flush it before a plain fork, which would write it once per process; freeze() flushes what "
            "it can reach",
        )
