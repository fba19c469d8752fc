"""numpy arrays in memory that a family shares for writing too: what one writes all see.

An array made in the setup is inherited by every clone, as a global or a closure, and survives the
freeze (MAP_SHARED memory is never imaged). Pickled, as an argument or a result of a clone, it
travels as a reference to the same memory. Nothing orders the writes of several processes.

For the wire between processes: pickle inside `sending()` and send the descriptors it collects by
SCM_RIGHTS; unpickle inside `receiving(descriptors)`. Pickled outside of it, the reference names
processes that hold the memory and works as long as one of them lives and holds it still.
"""

from __future__ import annotations

import fcntl
import functools
import math
import mmap
import os
import pickle
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from clonal.errors import Error
from clonal.kernel.probe import probe

if TYPE_CHECKING:
    import numpy
    from numpy.typing import DTypeLike

F_ADD_SEALS, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW = 1033, 1, 2, 4


class _Block(mmap.mmap):
    """The memory of one array, and the descriptor by which others can map it (-1: by fork only)."""

    fd: int
    identity: tuple[int, int]
    creator: int

    def __del__(self) -> None:
        fd, self.fd = getattr(self, "fd", -1), -1
        if fd >= 0:
            os.close(fd)


class _Reference(NamedTuple):
    """How another process finds a block."""

    identity: tuple[int, int]  # device and inode: unique among the memory files of a machine
    size: int
    sent: int | None  # which of the descriptors sent along
    pids: tuple[int, ...]  # else: who may hold it
    fd: int


class _Layout(NamedTuple):
    """Which part of a block an array shows, and how."""

    shape: tuple[int, ...]
    dtype: Any
    offset: int
    strides: tuple[int, ...]
    writeable: bool


class _Passing(threading.local):
    outgoing: list[int] | None = None
    most = 0
    incoming: Sequence[int] = ()


_passing = _Passing()
_blocks: weakref.WeakValueDictionary[tuple[int, int], _Block] = weakref.WeakValueDictionary()


def shared_array(shape: int | Sequence[int], dtype: DTypeLike = float) -> numpy.ndarray[Any, Any]:
    """An array of zeroes in shared memory; the memory is freed when no process has it any more.

    An array that is there at `freeze()` with an immortal heap stays as long as the process does.
    """
    cls = _array_class()
    import numpy

    kind = numpy.dtype(dtype)
    if kind.hasobject:
        raise TypeError(f"dtype {kind} holds Python objects, which belong to one process")
    sizes = (shape,) if isinstance(shape, int) else tuple(int(size) for size in shape)
    if any(size < 0 for size in sizes):
        raise ValueError(f"shape {sizes} has a negative size")
    size = math.prod(sizes) * kind.itemsize
    if size == 0:
        raise ValueError(f"an array of shape {sizes} and dtype {kind} has no bytes to share")
    array: numpy.ndarray[Any, Any] = cls(sizes, kind, buffer=_new_block(size))
    return array


@functools.cache
def _array_class() -> type[numpy.ndarray[Any, Any]]:
    """The subclass that pickles by reference; made when numpy is there."""
    try:
        import numpy
    except ImportError as error:
        raise ImportError("clonal.shared_array needs numpy: pip install 'clonal[observe]'") from error

    class SharedArray(numpy.ndarray):
        """An array in shared memory, or a view of one. Copies and results are ordinary memory."""

        def __reduce_ex__(self, protocol: Any) -> Any:
            block = _block_of(self)
            if block is None:
                return self.view(numpy.ndarray).__reduce_ex__(protocol)
            start = numpy.frombuffer(block, "u1", 1).__array_interface__["data"][0]
            offset = self.__array_interface__["data"][0] - start
            layout = _Layout(self.shape, self.dtype, offset, self.strides, self.flags.writeable)
            return _rebuild, (tuple(_reference(block)), tuple(layout))

    return SharedArray


def _block_of(array: Any) -> _Block | None:
    """The block under an array or a view, None if it is ordinary memory."""
    base = array.base
    while base is not None and not isinstance(base, _Block):
        base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
    return base


def _new_block(size: int) -> _Block:
    if not probe().memfd:
        block = _Block(-1, size)
        block.fd, block.identity, block.creator = -1, (0, id(block)), os.getpid()
        return block
    fd = os.memfd_create("clonal-shared", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)  # nobody can cause SIGBUS
        return _map_block(fd, size, os.getpid())
    except BaseException:
        os.close(fd)
        raise


def _map_block(fd: int, size: int, creator: int) -> _Block:
    """The block of a memory file; takes over the descriptor."""
    extra: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
    block = _Block(fd, size, **extra)
    status = os.fstat(fd)
    block.fd, block.identity, block.creator = fd, (status.st_dev, status.st_ino), creator
    _blocks[block.identity] = block
    return block


def _reference(block: _Block) -> _Reference:
    if block.fd < 0:
        raise pickle.PicklingError(
            "this shared array is inherited by clones but cannot be sent: there are no memory files here"
        )
    sent = None
    outgoing = _passing.outgoing
    if outgoing is not None:
        if block.fd not in outgoing and len(outgoing) < _passing.most:
            outgoing.append(block.fd)
        sent = outgoing.index(block.fd) if block.fd in outgoing else None
    return _Reference(block.identity, len(block), sent, (block.creator, os.getpid()), block.fd)


def _rebuild(reference: tuple[Any, ...], layout: tuple[Any, ...]) -> numpy.ndarray[Any, Any]:
    """What a pickled array calls in the process that reads it."""
    block, form = _attach(_Reference(*reference)), _Layout(*layout)
    array: numpy.ndarray[Any, Any] = _array_class()(form.shape, form.dtype, block, form.offset, form.strides)
    array.flags.writeable = form.writeable
    return array


def _attach(reference: _Reference) -> _Block:
    """The block here, if this process has it already (inherited, or received before); else mapped."""
    known = _blocks.get(reference.identity)
    if known is not None:
        return known
    fd = _find(reference)
    try:
        return _map_block(fd, reference.size, reference.pids[0])
    except BaseException:
        os.close(fd)
        raise


def _find(reference: _Reference) -> int:
    """A descriptor of our own for the memory."""
    if reference.sent is not None and reference.sent < len(_passing.incoming):
        return fcntl.fcntl(_passing.incoming[reference.sent], fcntl.F_DUPFD_CLOEXEC, 3)
    for pid in reference.pids:
        try:
            fd = os.open(f"/proc/{pid}/fd/{reference.fd}", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) == reference.identity:
            return fd
        os.close(fd)
    raise Error(
        f"the memory of a shared array is gone: no process of {reference.pids} holds it any more "
        "(keep the array until the clone is done with it)",
        pids=reference.pids,
    )


@contextmanager
def sending(most: int) -> Iterator[list[int]]:
    """Pickle inside; the list then holds the descriptors to send along, at most so many. They stay
    the arrays' own. Arrays beyond that are named as outside."""
    before = _passing.outgoing, _passing.most
    found: list[int] = []
    _passing.outgoing, _passing.most = found, most
    try:
        yield found
    finally:
        _passing.outgoing, _passing.most = before


@contextmanager
def receiving(descriptors: Sequence[int]) -> Iterator[None]:
    """Unpickle inside; the descriptors stay the caller's to close."""
    before, _passing.incoming = _passing.incoming, descriptors
    try:
        yield
    finally:
        _passing.incoming = before
