"""Hazards that live in the kernel or on a device: rings, pins, locks, device files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.audit import PRELUDE, audit_of, named

SYSCALLS = """
import ctypes, mmap, platform
libc = ctypes.CDLL(None, use_errno=True)
IO_SETUP = {"x86_64": 206, "aarch64": 0}[platform.machine()]
RING_SETUP, RING_REGISTER = 425, 427
memory = mmap.mmap(-1, 1 << 16)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))

def call(number, *arguments):
    result = libc.syscall(number, *arguments)
    if result < 0:
        print(os.strerror(ctypes.get_errno()), file=sys.stderr)
        os.write(1, b"null"); os._exit(0)
    return result
"""
RING = "parameters = ctypes.create_string_buffer(120)\nring = call(RING_SETUP, 4, parameters)\n"
PIN = RING + "vector = (ctypes.c_void_p * 2)(address, 1 << 16)\ncall(RING_REGISTER, ring, 0, vector, 1)\n"
AIO = "context = ctypes.c_ulong(0)\ncall(IO_SETUP, 8, ctypes.byref(context))\n"
LOCK = "assert libc.mlock(ctypes.c_void_p(address), 4096) == 0\n"


@pytest.mark.parametrize(
    ("name", "body"), [("io-uring", RING), ("pinned-memory", PIN), ("aio", AIO), ("locked-memory", LOCK)]
)
def test_what_the_kernel_writes_or_holds_is_flagged(name: str, body: str) -> None:
    found = audit_of(SYSCALLS + body)
    if found is None:
        pytest.skip(f"this kernel refuses the system call that makes {name}")
    assert named(found, name)
    assert not named(audit_of(SYSCALLS), name)


DEVICE = """
mount -t tmpfs none /dev && : > /dev/nvidiactl && exec "$0" "$1"
"""


@pytest.mark.parametrize(
    ("body", "flagged"),
    [
        ("fd = os.open('/dev/nvidiactl', os.O_RDWR)", True),
        ("import mmap; os.truncate('/dev/nvidiactl', 4096); file = open('/dev/nvidiactl', 'r+b')\n"
         "memory = mmap.mmap(file.fileno(), 4096); file.close()", True),
        ("present = os.path.exists('/dev/nvidiactl')", False),
    ],
)  # fmt: skip
def test_an_open_or_mapped_gpu_is_flagged_and_a_present_one_is_not(
    body: str, flagged: bool, tmp_path: Path
) -> None:
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("no unshare command to give the test a /dev of its own")
    script = tmp_path / "script.py"
    script.write_text(f"{PRELUDE}\n{body}\nreport()\n")
    run = subprocess.run(
        [unshare, "-Urm", "sh", "-c", DEVICE, sys.executable, str(script)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if run.returncode and "unshare" in run.stderr + run.stdout:
        pytest.skip(f"no user namespaces here: {run.stderr.strip()}")
    assert run.returncode == 0, run.stderr
    assert bool(named(json.loads(run.stdout), "cuda")) == flagged


def test_an_initialised_torch_cuda_is_flagged_and_a_loaded_one_is_not() -> None:
    """No GPU is needed: the audit asks whatever module is loaded under this name."""
    stand_in = """
    import types
    sys.modules["torch.cuda"] = cuda = types.ModuleType("torch.cuda")
    cuda.is_initialized = lambda: {}
    """
    assert named(audit_of(stand_in.format(True)), "cuda")
    assert not named(audit_of(stand_in.format(False)), "cuda")
