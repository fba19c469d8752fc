"""Messages between client, template and clone: a head, then pickles inline or in a sealed memfd.

A message is one packet: HEAD, then `value` bytes of notes (a small pickle: options on the way
there, imports on the way back), then the payload. A payload that is large or has out-of-band
buffers travels in a memfd instead, and the packet only lists the lengths of its parts.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import pickle
import struct
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from clonal import _native

HEAD = struct.Struct("=BBHiq")  # kind, flags, spare, value, CLOCK_MONOTONIC ns; as in serve.h

REQUEST, RESULT, EXCEPTION = b"QRE"
STARTED, EXITED, REFUSED = b"SXF"
READY, FAILED = b"YN"

IN_MEMFD = 1
PASSED_SHIFT = 4  # a payload's flags above: how many descriptors of shared arrays travel along
PASSED_MOST = 5  # of the 8 in a message; a memfd and captured output may take 3
INLINE_MOST = 32 * 1024
NOTES_MOST = 32 * 1024
OUT_OF_BAND = 16 * 1024  # smaller buffers are copied into the pickle: a descriptor costs more
ALIGN = 64

BIRTH = struct.Struct("=iq")  # pid and first instruction (ns): after the head of an answer
USAGE = struct.Struct("=QQQ")  # cpu_us, minflt, maxrss_kb: the rest of an EXITED message

Dumps = Callable[..., Any]  # bytes, or None: it is not for this one
Packed = tuple[int, bytes, tuple[int, ...]]


def pack(value: object, *ways: Dumps) -> Packed:
    """(flags, body, descriptors) of a value; the caller closes the descriptors once sent. `ways` to pickle it
    are tried until one does not return None."""
    ways = ways or (pickle.dumps,)
    shared = sys.modules.get("clonal.clone.shared")
    if shared is None:
        return _pack(value, ways)
    with shared.sending(PASSED_MOST) as passed:
        flags, body, fds = _pack(value, ways)
    return flags | len(passed) << PASSED_SHIFT, body, fds + tuple(map(os.dup, passed))


def payload_fds(flags: int) -> int:
    """How many descriptors belong to a payload: its memfd, then those of shared arrays."""
    return (flags & IN_MEMFD) + (flags >> PASSED_SHIFT)


def _pack(value: object, ways: Sequence[Dumps]) -> Packed:
    buffers: list[memoryview] = []

    def keep_inline(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < OUT_OF_BAND:
            return True
        buffers.append(view)
        return False

    for dumps in ways:
        buffers.clear()
        data = dumps(value, protocol=5, buffer_callback=keep_inline)
        if data is not None:
            break
    if not buffers and len(data) <= INLINE_MOST:
        return 0, data, ()
    return IN_MEMFD, *_to_memfd([memoryview(data), *buffers])


def _to_memfd(parts: Sequence[memoryview]) -> tuple[bytes, tuple[int, ...]]:
    fd = os.memfd_create("clonal-payload", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        offset = 0
        for part in parts:
            _write_at(fd, part, offset)
            offset = _aligned(offset + part.nbytes)
        os.ftruncate(fd, offset)
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(fd)
        raise
    return struct.pack(f"={len(parts)}Q", *(part.nbytes for part in parts)), (fd,)


def _write_at(fd: int, part: memoryview, offset: int) -> None:
    part = part.cast("B") if part.nbytes else part
    done = 0
    while done < part.nbytes:
        done += os.pwrite(fd, part[done : done + (1 << 30)], offset + done)


def _aligned(offset: int) -> int:
    return -(-offset // ALIGN) * ALIGN


def unpack(flags: int, body: bytes | memoryview, fds: Sequence[int]) -> Any:
    """The value of a payload; its memfd is closed, large buffers keep a private mapping of it."""
    if not flags >> PASSED_SHIFT:
        return _unpack(flags, body, fds)
    from clonal.clone import shared

    passed = fds[flags & IN_MEMFD :]
    try:
        with shared.receiving(passed):
            return _unpack(flags, body, fds)
    finally:
        close_all(passed)


def _unpack(flags: int, body: bytes | memoryview, fds: Sequence[int]) -> Any:
    if not flags & IN_MEMFD:
        return pickle.loads(body)
    sizes = struct.unpack(f"={len(body) // 8}Q", body)
    try:
        view = _private_view(fds[0])
    finally:
        os.close(fds[0])
    parts = []
    offset = 0
    for size in sizes:
        parts.append(view[offset : offset + size])
        offset = _aligned(offset + size)
    return pickle.loads(parts[0], buffers=parts[1:])


def _private_view(fd: int) -> memoryview:
    """The memfd's bytes, writable and private to this process, holding no descriptor."""
    size = os.fstat(fd).st_size
    if sys.version_info >= (3, 13):
        return memoryview(mmap.mmap(fd, size, access=mmap.ACCESS_COPY, trackfd=False))
    copy = mmap.mmap(-1, size)  # mmap would keep a duplicate of fd as long as the buffers live
    view = memoryview(copy)
    done = 0
    while done < size:
        done += os.preadv(fd, [view[done : done + (1 << 30)]], done)
    return view


def head(kind: int, flags: int = 0, notes: bytes = b"", birth: bytes = b"") -> bytes:
    """A message's beginning up to its payload."""
    return HEAD.pack(kind, flags, 0, len(notes), time.monotonic_ns()) + birth + notes


def send(
    fd: int, kind: int, packed: Packed, notes: bytes = b"", more_fds: tuple[int, ...] = (), birth: bytes = b""
) -> None:
    """Sends a packed payload and closes its descriptors."""
    flags, body, fds = packed
    try:
        _native.wire_send(fd, head(kind, flags, notes, birth), body, fds + more_fds)
    finally:
        close_all(fds)


def close_all(fds: Sequence[int]) -> None:
    """Closes every descriptor."""
    for fd in fds:
        os.close(fd)
