"""Recording by eBPF: whether this machine lets it, what it costs, and the recording itself."""

from __future__ import annotations

import errno
import os
import platform
import select
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np

from clonal.observe.record.events import EVENT, Happened, State
from clonal.observe.record.interpreters import Files, mappings
from clonal.observe.record.tracer import Tracer
from clonal.observe.record.trap import PAGE, PAGES, CannotRecord

if TYPE_CHECKING:
    from clonal._bpf import Program

BTF = "/sys/kernel/btf/vmlinux"
FIRST_NAMESPACE = "pid:[4026531836]"  # include/linux/proc_ns.h PROC_PID_INIT_INO
LATEST = 0.020  # seconds between two looks, at most
SOONEST = 0.001  # and at least, however often the program wakes
MOST = 1.1  # copies that are seen of each that is known: a child copies some more
NOT_ALLOWED = "eBPF is not allowed here: run as root, or with CAP_BPF and CAP_PERFMON"
WHY = {
    errno.EPERM: NOT_ALLOWED,
    errno.EACCES: "this kernel's verifier refuses the eBPF program",
    errno.ENOSYS: "this kernel has no eBPF (CONFIG_BPF_SYSCALL)",
    errno.ENOMEM: "there is no memory for the eBPF program's ring of events",
}


def require() -> None:
    """Raises CannotRecord where the program cannot be loaded, or does not see what it should."""
    cost()


def load() -> Program:
    """The program, loaded and attached. Raises CannotRecord."""
    if platform.machine() != "x86_64":
        raise CannotRecord("eBPF sees page faults on x86-64 only: arm64 has no tracepoints for them")
    if os.readlink("/proc/self/ns/pid") != FIRST_NAMESPACE:
        raise CannotRecord(
            "eBPF tells process numbers of the machine, and this is another PID namespace; record from "
            "outside of the container"
        )
    try:
        from clonal import _bpf
    except ImportError:
        raise CannotRecord(
            "this build of Clonal has no eBPF program: install clang and libbpf-dev, then install Clonal "
            "again"
        ) from None
    if not os.path.exists(BTF):
        raise CannotRecord(
            "this kernel does not describe its types (CONFIG_DEBUG_INFO_BTF), which eBPF needs"
        )
    try:
        return _bpf.Program()
    except OSError as error:
        number = error.errno or 0
        text = WHY.get(number) or f"{error.filename}: {os.strerror(number)} (Linux 5.17 or later is needed)"
        raise CannotRecord(f"cannot record faults: {text}", errno=number) from None


def cost() -> float:
    """Nanoseconds that a recorded copy takes more than one that is not: two children copy the same pages, one
    of them recorded. Raises CannotRecord where not all of its copies are seen."""
    heap = bytearray(PAGE * PAGES)
    heap[::PAGE] = b"1" * PAGES
    with closing(load()) as program:
        plain = min(_child(heap, program, False)[0] for _ in range(3))
        recorded, seen = min(_child(heap, program, True) for _ in range(3))
    if not PAGES <= seen <= MOST * PAGES:
        raise CannotRecord(
            f"eBPF saw {seen:,} of {PAGES:,} copies on this kernel, so it is not used", seen=seen
        )
    return max(0.0, (recorded - plain) / PAGES)


def _child(heap: bytearray, program: Program, record: bool) -> tuple[int, int]:
    """Nanoseconds of CPU time in which a child writes to each page, and copies that were seen."""
    go_reader, go = os.pipe()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(go)  # so that it ends with its parent
            os.read(go_reader, 1)
            start = time.thread_time_ns()
            heap[::PAGE] = b"2" * PAGES
            os.write(writer, str(time.thread_time_ns() - start).encode())
        finally:
            os._exit(0)
    try:
        if record:
            interpreter = Files().interpreter(pid, mappings(pid)[1])
            program.python(pid, interpreter.known if interpreter else None)
            program.follow(pid, State.RECORDED)
        os.write(go, b"x")
        took = int(os.read(reader, 32) or b"0")
    finally:
        for fd in (go_reader, go, reader, writer):
            os.close(fd)
        os.waitpid(pid, 0)
        program.forget(pid)
    return took, _copies(program)


def _copies(program: Program) -> int:
    found = 0
    while raw := program.read()[0]:
        found += int(np.count_nonzero(np.frombuffer(raw, EVENT)["kind"] == Happened.COPY))
    return found


def watch(tracer: Tracer, ended: Callable[[], bool], descriptors: Sequence[int]) -> None:
    """Takes what the program tells until `ended`, which is asked after each look; any of the descriptors
    makes it look at once."""
    often, seldom = select.poll(), select.poll()
    for fd in descriptors:
        often.register(fd, select.POLLIN)
        seldom.register(fd, select.POLLIN)
    seldom.register(tracer.program.fileno(), select.POLLIN)
    while True:
        last = ended()
        tracer.drain()
        if last:
            return
        if not often.poll(SOONEST * 1000) and not tracer.seeking:
            seldom.poll((LATEST - SOONEST) * 1000)
