"""A page that a device may write to: what fork makes of it in the kernel, pinned by a fixed io_uring buffer,
and in the model."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from clonal.model import HUGE, PAGE, Advice, Machine

PROGRAM = """
import ctypes, json, mmap, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
HUGE, SETUP, REGISTER = 2 << 20, 425, 427
memory = mmap.mmap(-1, 2 * HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
start = -(-ctypes.addressof(ctypes.c_char.from_buffer(memory)) // HUGE) * HUGE
libc.madvise(ctypes.c_void_p(start), HUGE, int(sys.argv[1]))
ctypes.memset(start, 1, 6 * 4096)
ring = libc.syscall(SETUP, 4, ctypes.create_string_buffer(120))
if ring < 0 or libc.syscall(REGISTER, ring, 0, struct.pack("QQ", start + 4096, 2 * 4096), 1) < 0:
    sys.exit(77)

def alone():
    with open("/proc/self/pagemap", "rb", buffering=0) as file:
        file.seek(start // 4096 * 8)
        return [entry >> 56 & 1 for entry in struct.unpack("8Q", file.read(64))]

ours, theirs = os.pipe()
back, release = os.pipe()
if os.fork() == 0:
    os.write(theirs, json.dumps(alone()).encode())
    os.read(back, 1)
    os._exit(0)
child = json.loads(os.read(ours, 100))
print(json.dumps([alone(), child]))
os.write(release, b"x")
os.wait()
"""


@pytest.mark.parametrize("advice", [Advice.NOHUGEPAGE, Advice.HUGEPAGE])
def test_fork_copies_what_is_pinned(advice: Advice) -> None:
    """mm/memory.c copy_present_page, mm/huge_memory.c copy_huge_pmd, 6.18."""
    ran = subprocess.run([sys.executable, "-c", PROGRAM, str(int(advice))], capture_output=True, text=True)
    if ran.returncode == 77:
        pytest.skip("io_uring pins no buffer here")
    assert ran.returncode == 0, ran.stderr
    process = Machine().spawn()
    start = process.mmap(HUGE * PAGE, at=1 << 40)
    process.madvise(start, HUGE * PAGE, advice)
    process.write(start, 6 * PAGE)
    process.pin(start + PAGE, 2 * PAGE)
    child = process.fork()
    shown = [each.pages(start, 8 * PAGE).exclusive.astype(int).tolist() for each in (process, child)]
    assert shown == json.loads(ran.stdout)
