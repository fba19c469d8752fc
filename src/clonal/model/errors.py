"""What the model refuses, with the values: each is a clonal.Error and can be pickled."""

from __future__ import annotations

from clonal.errors import Error


class ModelError(Error):
    """The machine, or what was asked of it, is impossible; the message says what to change."""


class BadMachine(ModelError):
    """A machine that cannot be: `what` is the setting, `value` what was given."""

    def __init__(self, what: str, value: object, wanted: str) -> None:
        super().__init__(f"{what} is {value!r}, but must be {wanted}", what=what, value=value, wanted=wanted)


class BadRange(ModelError):
    """Addresses that overlap a mapping, are not aligned to pages or lie outside user space."""

    def __init__(self, start: int, end: int, why: str) -> None:
        super().__init__(f"{start:#x}-{end:#x} {why}", start=start, end=end)


class BadFlags(ModelError):
    """Flags that the model does not know or that exclude one another."""

    def __init__(self, flags: object, why: str) -> None:
        super().__init__(f"{flags!r}: {why}", flags=flags)


class Segfault(ModelError):
    """An access outside any mapping, or one that its protection forbids (SIGSEGV)."""

    def __init__(self, address: int, write: bool) -> None:
        what = "write to" if write else "read of"
        super().__init__(f"segmentation fault: {what} {address:#x}", address=address, write=write)


class OutOfFrames(ModelError):
    """More frames are needed than are free."""

    def __init__(self, wanted: int, free: int) -> None:
        super().__init__(f"out of memory: {wanted:,} frames wanted, {free:,} free", wanted=wanted, free=free)


class GroupFull(ModelError):
    """A memory cgroup may have no more memory: `pages` more, with `charged` of `limit`."""

    def __init__(self, group: str, pages: int, charged: int, limit: int) -> None:
        super().__init__(
            f"memory cgroup {group} is full: {pages:,} pages wanted, {charged:,} of {limit:,} charged",
            group=group,
            pages=pages,
            charged=charged,
            limit=limit,
        )


class BadPolicy(ModelError):
    """A memory policy with nodes that its mode does not take, or that the machine does not have (EINVAL)."""

    def __init__(self, mode: str, nodes: tuple[int, ...], why: str) -> None:
        super().__init__(f"memory policy {mode} {why}: {nodes!r}", mode=mode, nodes=nodes)


class CommitRefused(ModelError):
    """The kernel does not promise so much memory (ENOMEM): `pages` more, with `committed` of `limit`."""

    def __init__(self, pages: int, limit: int, committed: int) -> None:
        super().__init__(
            f"cannot commit {pages:,} pages: {committed:,} of at most {limit:,} are committed",
            pages=pages,
            limit=limit,
            committed=committed,
        )


class Unmodelled(ModelError):
    """What the kernel can do and the model cannot (README.md, "What it does not do")."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the model does not have {what}", what=what)


class NoSuchProcess(ModelError):
    """An operation on a process that has ended."""

    def __init__(self, pid: int) -> None:
        super().__init__(f"process {pid} has ended", pid=pid)


class WouldBlock(ModelError):
    """A wait that nothing in the model would end, or for a process that is no child."""

    def __init__(self, pid: int, child: int, why: str) -> None:
        super().__init__(f"process {pid} cannot wait for {child}: it {why}", pid=pid, child=child)
