"""What makes an image unsafe (the freeze is refused) or impossible (it falls back)."""

from __future__ import annotations

import mmap
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from clonal.kernel import cgroup, memory, procfs
from clonal.kernel.probe import KERNEL

PEAK_BYTES = 32 << 20  # two chunks of _native/image.c

# Mappings through which the kernel or a device writes to user memory at any time.
_ASYNCHRONOUS = {
    "anon_inode:[io_uring]": "io_uring is in use: close it before the freeze, open it after",
    "/[aio]": "kernel AIO is in use: io_destroy its contexts before the freeze",
    "/dev/nvidia": "CUDA is in use: freeze before it is initialised",
    "/dev/infiniband": "RDMA is in use: freeze before it is initialised",
}


def refusals() -> list[str]:
    """Reasons why writes by the kernel or a device could be lost; empty if there are none."""
    reasons = []
    pinned = procfs.status().size("VmPin")
    if pinned:
        reasons.append(
            f"{pinned >> 10} kB are pinned for a device or io_uring (VmPin): "
            "unregister those buffers before the freeze"
        )
    paths = {vma.path for vma in procfs.maps()} | _descriptor_targets()
    for prefix, reason in _ASYNCHRONOUS.items():
        if any(path.startswith(prefix) for path in paths):
            reasons.append(reason)
    return reasons


def _descriptor_targets() -> set[str]:
    """What our descriptors lead to: an io_uring need not be mapped."""
    targets = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the one that lists
            targets.add(os.readlink(f"/proc/self/fd/{name}"))
    return targets


def impossible() -> str | None:
    """Why no image can be made here, or None."""
    if not KERNEL.memfd:
        return "memfd_create is not available"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if soft != resource.RLIM_INFINITY and hard != resource.RLIM_INFINITY:
        return f"RLIMIT_FSIZE is {hard} bytes and may not be raised: a memory file cannot be written"
    if _locks_future():
        return "mlockall(MCL_FUTURE) is in force: each mapping of an image would be copied at once"
    return no_room(PEAK_BYTES)


def _locks_future() -> bool:
    """A scratch mapping tells: the kernel does not show MCL_FUTURE anywhere."""
    before = procfs.status().size("VmLck")
    with mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS):
        return procfs.status().size("VmLck") > before


def no_room(needed: int) -> str | None:
    """Why `needed` more bytes cannot be had for a moment, or None. Page cache that can go is room."""
    left = memory.meminfo()["MemAvailable"]
    if left < needed:
        return f"{left >> 20} MB of memory are available and {needed >> 20} MB are needed for a moment"
    for group in cgroup.groups("memory"):
        limit = group.limit()
        if limit is None:
            continue
        left = limit - group.usage()
        if left < needed:
            return (
                f"memory cgroup {group.name} has {left >> 20} MB left and {needed >> 20} MB are needed "
                "for a moment"
            )
    return None


@contextmanager
def file_size_unlimited() -> Iterator[None]:
    """Raises the soft RLIMIT_FSIZE for the moment: offsets in an image are addresses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if soft == resource.RLIM_INFINITY:
        yield
        return
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def thread_name(tid: int) -> str:
    """A thread's Python name where it has one, and what the kernel calls it."""
    comm = next((thread.name for thread in procfs.threads() if thread.tid == tid), "?")
    for thread in threading.enumerate():
        if thread.native_id == tid:
            return f"{thread.name!r} ({comm}, tid {tid})"
    return f"{comm} (tid {tid})"


def other_threads() -> list[int]:
    """Thread ids of this process but the calling one's."""
    here = threading.get_native_id()
    return [thread.tid for thread in procfs.threads() if thread.tid != here]
