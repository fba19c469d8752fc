"""What `clonal top` takes of one core on a family of 200 clones, on a terminal of 80x24.

    python benchmarks/top.py [--clones 200] [--size 64M] [--seconds 30] [--busy 10]

The parent has written its memory, in 4 KiB pages; `--busy` of the children copy a page of it
every 10 ms. `clonal top` runs in a terminal of its own, whose output is read
and thrown away; its processor time is taken from /proc/PID/stat after a warm-up of five seconds.
"""

from __future__ import annotations

import argparse
import fcntl
import mmap
import os
import pty
import signal
import struct
import sys
import termios
import threading
import time

import where

from clonal.kernel import procfs
from clonal.report.words import parse_size, share, size

PAGE = mmap.PAGESIZE
WARM_UP = 5.0
TICKS = os.sysconf("SC_CLK_TCK")


def family(clones: int, room: int, writers: int) -> int:
    """Starts it; returns when it is ready, with the parent's number. It ends when this process does."""
    ready, done = os.pipe()
    hold, held = os.pipe()
    pid = os.fork()
    if pid:
        os.close(done)
        os.close(hold)
        for _ in range(clones + 1):
            os.read(ready, 1)
        return pid
    os.close(held)
    area = mmap.mmap(-1, room, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_NOHUGEPAGE)
    for at in range(0, room, PAGE):
        area[at] = 1
    for number in range(clones):
        if os.fork() == 0:
            os.write(done, b"x")
            if number < writers:
                write(area, hold)
            os.read(hold, 1)
            os._exit(0)
    os.write(done, b"x")
    os.read(hold, 1)
    os._exit(0)


def write(area: mmap.mmap, hold: int) -> None:
    """A page every 10 ms, until the end."""
    import select

    for at in range(0, len(area), PAGE):
        area[at] = 2
        if select.select([hold], [], [], 0.01)[0]:
            return


def top(pid: int) -> tuple[int, int]:
    """Starts it in a terminal of 80x24: its number, and the terminal's other end."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ["TERM"] = "xterm-256color"
        os.execv(sys.executable, [sys.executable, "-m", "clonal.cli.main", "top", str(pid)])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    return child, terminal


def drained(terminal: int, count: list[int]) -> None:
    """Reads what it draws, as a terminal does."""
    try:
        while data := os.read(terminal, 1 << 16):
            count[0] += len(data)
    except OSError:  # EIO: nobody writes any more
        return


def processor(pid: int) -> float:
    """Seconds of processor time so far."""
    stat = procfs.stat(pid)
    return (stat.utime + stat.stime) / TICKS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clones", type=int, default=200)
    parser.add_argument("--size", default="64M")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--busy", type=int, default=10)
    arguments = parser.parse_args()
    room = parse_size(arguments.size, "--size")
    root = family(arguments.clones, room, arguments.busy)
    child, terminal = top(root)
    drawn = [0]
    reader = threading.Thread(target=drained, args=(terminal, drawn))
    reader.start()
    time.sleep(WARM_UP)
    begun, before, drawn[0] = time.monotonic(), processor(child), 0
    time.sleep(arguments.seconds)
    used, passed = processor(child) - before, time.monotonic() - begun
    os.kill(child, signal.SIGTERM)
    os.waitpid(child, 0)
    reader.join()
    print(
        f"{arguments.clones} clones of {size(room)}, {arguments.busy} of them writing: "
        f"{share(used / passed)} of one core in {passed:.0f} s; "
        f"{drawn[0] / passed / 1e3:.1f} kB drawn a second"
    )
    where.tell()


if __name__ == "__main__":
    main()
