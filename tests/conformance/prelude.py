"""How the tests of traps run: a body in a process of its own, after a prelude; it may skip()."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import run_script

SKIPPED = 77

PRELUDE = """
import ctypes, errno, hashlib, json, mmap, os, resource, select, signal, sys, threading, time
import clonal
from clonal.kernel import procfs
PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.pthread_self.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.syscall.restype = ctypes.c_long

def skip(why):
    print("skipped:", why)
    sys.exit(77)

def call(number, *arguments):
    "A bare system call; -1 sets errno."
    return libc.syscall(ctypes.c_long(number), *[a if hasattr(a, "_obj") or isinstance(a, ctypes._SimpleCData)
                                                 else ctypes.c_ulong(a) for a in arguments])

def failed():
    return errno.errorcode[ctypes.get_errno()]

def region(pages, fill=7, flags=0x22):
    "Private anonymous memory; None where the kernel refuses the flags."
    address = libc.mmap(None, pages * PAGE, 3, flags, -1, 0)
    if address in (None, 2**64 - 1):
        return None
    if fill is not None:
        ctypes.memset(address, fill, pages * PAGE)
    return address

def vma_of(address):
    return next(vma for vma in procfs.maps() if vma.start <= address < vma.end)

def flags_of(address):
    return next(s.flags for s in procfs.smaps() if s.vma.start <= address < s.vma.end)

def is_image(address):
    return vma_of(address).path.startswith("/memfd:clonal-image")

def refused(part):
    try:
        clonal.freeze()
    except clonal.FreezeRefused as error:
        assert part in str(error), error
        assert not any("clonal-image" in vma.path for vma in procfs.maps()), "something was imaged"
    else:
        raise AssertionError("not refused")

def forked(body):
    "What body() returns in a forked child, by JSON."
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.write(write, json.dumps(body()).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as answer:
        text = answer.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return json.loads(text)

def page_tables():
    return procfs.status().size("VmPTE")
"""


def run(body: str, **options: Any) -> None:
    """Runs the body as run_script does; the test is skipped if the body says so."""
    result = run_script(PRELUDE + body, check=False, **options)
    if result.returncode == SKIPPED:
        pytest.skip(result.stdout.split("skipped: ")[-1].strip())
    if result.returncode != 0:
        pytest.fail(f"the script failed: {result}", pytrace=False)
