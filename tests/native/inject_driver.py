"""Fails the system calls of a freeze one at a time; run as a script by test_injection.py.

    inject_driver.py INJECT-PROGRAM JSON

JSON says what is frozen and which calls fail: `again` (a second freeze of a dirtied image), `huge`, `public`
(through clonal.freeze()), `whole` (all of that, not the core alone), `threads` (two run meanwhile, one of
them writing), `mode`, `errno`, `step` (every how many-th call; 0: strace counts them). For each call the warm
process forks a subject, which stops itself; the program lets it go on and fails the call; then the subject
checks its data, changes it, forks and ends. Prints what was found as JSON.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
import warnings
from typing import Any

import clonal
from clonal import _native
from clonal.image import core, guards

INJECT, PLAN = sys.argv[1], json.loads(sys.argv[2])
OBJECTS = [{"i": i, "s": str(i), "l": [i]} for i in range(20_000)]
warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is meant here
RAW = bytearray(os.urandom(1 << 20) * 10)


def digest() -> str:
    return hashlib.sha256(bytes(RAW) + repr(OBJECTS[::3]).encode()).hexdigest()


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def dirty() -> None:
    for at in range(0, len(RAW), 40_000):
        RAW[at] ^= 0xFF
    for item in OBJECTS[::50]:
        item["i"] = -1


class Writer(threading.Thread):
    """Fills memory over and over without the GIL; a write that a freeze loses shows in its next look."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.memory = ctypes.create_string_buffer(1 << 20)
        self.turns, self.wrong, self.stop = 0, 0, False

    def run(self) -> None:
        while not self.stop:
            value = self.turns % 251
            ctypes.memset(self.memory, value, len(self.memory))
            self.wrong += self.memory.raw.count(value) != len(self.memory)
            self.turns += 1


def whole_freeze() -> list[str]:
    """All of clonal.freeze(), with what Python does in it: it may raise, the process must be as it was."""
    os.getpgid(0)
    try:
        return clonal.freeze(hugepages=PLAN["huge"]).degraded
    except (clonal.Error, OSError, MemoryError, ImportError, LookupError) as error:
        return [repr(error)]
    finally:
        os.getpgid(0)


def freeze() -> list[str]:
    """One run of the C core, or of clonal.freeze(); returns what was said to be degraded."""
    if PLAN["whole"]:
        return whole_freeze()
    if PLAN["public"]:
        return clonal.freeze(immortal=False, hugepages=PLAN["huge"]).degraded
    given = core.arguments(hugepages=PLAN["huge"], compact=False, keep=guards.keep())
    os.kill(os.getpid(), signal.SIGSTOP)
    found = _native.freeze(**given)
    guards.refresh()
    said = [text for key in ("call", "image_call", "failed_reason") if (text := found[key])]
    return said + ["collapse"] * (found["collapse_failed"] > 0)


def finish(writer: Writer) -> None:
    """Lets it go round a few times more and ends it."""
    turns = writer.turns
    while writer.turns < turns + 3:
        pass
    writer.stop = True
    writer.join()
    assert not writer.wrong, f"{writer.wrong} of {writer.turns} fillings were not as written"


def subject(report: int) -> None:
    expected = digest()
    before = descriptors()
    threads = [Writer(), threading.Thread(target=threading.Event().wait, daemon=True)]
    for thread in threads if PLAN["threads"] else ():
        thread.start()
    if PLAN["public"] or PLAN["whole"]:
        os.kill(os.getpid(), signal.SIGSTOP)
    said = freeze()
    if PLAN["threads"]:
        finish(threads[0])
    assert descriptors() == before, (descriptors(), before)
    assert digest() == expected, "data differ after the freeze"
    dirty()
    changed = digest()
    assert changed != expected
    pid = os.fork()
    if pid == 0:
        os._exit(0 if digest() == changed else 1)
    assert os.waitpid(pid, 0)[1] == 0, "data differ in a fork"
    more = [bytearray(b"z" * 100_000) for _ in range(50)]
    RAW.extend(b"".join(more))
    assert digest() != changed
    os.write(report, json.dumps(said).encode())


def start() -> tuple[int, int]:
    """A subject that has stopped itself: (pid, descriptor its report comes on)."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            subject(write)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    os.close(write)
    assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
    return pid, read


def fail(k: int) -> dict[str, Any]:
    pid, read = start()
    command = [INJECT, str(pid), str(k), PLAN["mode"], str(PLAN["errno"])] + ["whole"] * PLAN["whole"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    said = os.read(read, 1 << 16)
    os.close(read)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    found.update(k=k, status=status, said=json.loads(said or b"null"))
    return found


def strace() -> int | None:
    """How many calls strace sees in the window, None if it cannot trace."""
    pid, read = start()
    log = f"{os.environ['TMPDIR']}/strace.log"
    tracer = subprocess.Popen(["strace", "-q", "-o", log, "-p", str(pid)], stderr=subprocess.DEVNULL)
    while tracer.poll() is None:
        with open(f"/proc/{pid}/status") as file:
            if "TracerPid:\t0" not in file.read():
                break
    os.kill(pid, signal.SIGCONT)
    os.waitpid(pid, 0)
    os.close(read)
    if tracer.wait() != 0:
        return None
    with open(log, encoding="utf-8", errors="replace") as file:
        lines = [line for line in file if not line.startswith(("---", "+++"))]
    masks = [i for i, line in enumerate(lines) if line.startswith("rt_sigprocmask(SIG_SETMASK")]
    first = next(at for at in masks if "~[" in lines[at])
    return masks[masks.index(first) + 1] - first - 1


MMAP = 9


def chosen(calls: list[int]) -> list[int]:
    """Every step-th call, the first, the last, and the first of each kind; every step-th mmap where mmap is
    what fails."""
    if not calls:
        raise SystemExit("no call was seen")
    if PLAN["mode"] == "unmapped":
        return [at for at, number in enumerate(calls, 1) if number == MMAP][:: PLAN["step"]]
    firsts = {calls.index(number) + 1 for number in calls}
    return sorted(firsts | set(range(1, len(calls) + 1, PLAN["step"])) | {len(calls)})


def is_wrong(found: dict[str, Any]) -> bool:
    """Whether memory differs or the subject saw something amiss. (With threads memory may differ, they
    write until they are stopped; so does Python in the whole of freeze().)"""
    return found["status"] != 0 or (found["changed"] != 0 and not PLAN["threads"] and not PLAN["whole"])


def main() -> None:
    guards.install()
    core.arguments(hugepages=True, compact=False, keep=[])  # imports: with busy threads they take seconds
    sys.setswitchinterval(1e-4)
    if PLAN["again"]:
        clonal.freeze(immortal=False, hugepages=PLAN["huge"])
        dirty()
    quiet = fail(0)
    assert not is_wrong(quiet), quiet
    print(json.dumps({"count": quiet["count"], "said": quiet["said"]}))
    if PLAN["step"] == 0:
        print(json.dumps({"strace": [(strace(), fail(0)["count"]) for _ in range(4)]}))
        return
    wrong = 0
    for k in chosen(quiet["calls"]):
        found = fail(k)
        found.pop("calls", None)
        found["wrong"] = is_wrong(found)
        wrong += found["wrong"]
        print(json.dumps(found), flush=True)
    sys.exit(wrong != 0)


main()
