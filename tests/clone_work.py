"""What tests have clones do: functions that travel by name."""

from __future__ import annotations

import logging
import os
import random
import resource
import select
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import clonal

state: list[str] = []


blocked_at_birth: set[int] = set()


def warm() -> None:
    """A setup: clones see what it leaves."""
    state.append("warm")


def failing_setup() -> None:
    """A setup that raises."""
    raise LookupError("no dictionary here")


def dying_setup() -> None:
    """A setup whose process dies."""
    os.kill(os.getpid(), signal.SIGKILL)


def hanging_setup() -> None:
    """A setup that never returns."""
    signal.pause()


def read_state() -> list[str]:
    return state


def append_state(text: str) -> list[str]:
    state.append(text)
    return state


def add(a: int, b: int = 1) -> int:
    return a + b


def identity(value: Any) -> Any:
    return value


def fail(text: str) -> None:
    raise ValueError(text)


class Stubborn(Exception):
    """Pickles, but cannot be built again from what it pickled."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


def fail_stubbornly() -> None:
    raise Stubborn(1, 2)


def unpicklable() -> Any:
    return threading.Lock()


def die(signum: int) -> None:
    os.kill(os.getpid(), signum)
    signal.pause()


def wait_for_ever(fd: int = -1) -> None:
    """Says on a pipe that it has begun."""
    if fd >= 0:
        os.write(fd, b"x")
    signal.pause()


def interrupt() -> None:
    raise KeyboardInterrupt


def who() -> tuple[int, int]:
    return os.getpid(), os.getppid()


def draw() -> float:
    return random.random()


def open_descriptors() -> dict[str, str]:
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            pass
    return found


def print_both() -> None:
    print("to stdout")
    print("to stderr", file=sys.stderr)
    os.write(1, b"by the descriptor\n")


def print_and_die() -> None:
    print("last words")
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def print_much(size: int) -> None:
    sys.stdout.write("x" * size)


def surroundings(name: str) -> tuple[str | None, str]:
    return os.environ.get(name), os.getcwd()


def import_late(name: str) -> None:
    __import__(name)


def oom_score() -> int:
    with open("/proc/self/oom_score_adj") as file:
        return int(file.read())


def file_limit() -> tuple[int, int]:
    return resource.getrlimit(resource.RLIMIT_NOFILE)


def signal_state() -> tuple[set[int], Any]:
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, [])), signal.getsignal(signal.SIGTERM)


def leave_a_thread_writing(path: str) -> str:
    """Returns before its thread, which is no daemon, has written."""

    def write() -> None:
        time.sleep(0.05)
        with open(path, "a") as file:
            file.write("thread ")

    threading.Thread(target=write).start()
    return "returned"


def register_exits(path: str) -> None:
    """What is registered in a clone runs at its end."""
    import atexit
    import weakref

    def note(text: str) -> None:
        with open(path, "a") as file:
            file.write(text)

    atexit.register(note, "atexit ")
    weakref.finalize(register_exits, note, "finalize ")


def buffer_a_line(path: str) -> int:
    """Leaves a file open with unwritten data."""
    file = open(path, "w")  # noqa: SIM115
    file.write("buffered")
    state.append(file)  # type: ignore[arg-type]
    return file.fileno()


def log_to(path: str) -> None:
    handler = logging.handlers.MemoryHandler(100, target=logging.FileHandler(path))  # type: ignore[attr-defined]
    logging.getLogger("clone").addHandler(handler)
    logging.getLogger("clone").warning("kept back")


kept: list[Any] = []


def setup_with_exits() -> None:
    """A setup with a temporary folder, which is the template's to remove."""
    folder = tempfile.TemporaryDirectory(prefix="clonal-kept-")
    kept.append(folder)


def kept_folder() -> str:
    name: str = kept[0].name
    return name


def fork_and_hold(path: str) -> int:
    """A process forked by the clone outlives it, holding all that it inherited."""
    pid = os.fork()
    if pid == 0:
        os.close(os.open(path, os.O_RDONLY))
        os._exit(0)
    return pid


def draw_one(_: int) -> float:
    return random.random()


def fail_or_wait(what: str) -> None:
    if what != "wait":
        raise ValueError(what)
    signal.pause()


def sleep_and_return(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


def modules() -> set[str]:
    return set(sys.modules)


def attribute(module: str, name: str) -> Any:
    return getattr(sys.modules[module], name)


notes: list[tuple[str, int]] = []


def register_hooks() -> None:
    clonal.before_clone(lambda: notes.append(("before", os.getpid())))
    clonal.in_clone(lambda: notes.append(("inside", os.getpid())))


def register_failing_hook() -> None:
    @clonal.in_clone
    def connect() -> None:
        raise ConnectionError("no database")


def register_at_fork() -> None:
    def note(text: str) -> None:
        if text == "before fork" and ("before fork", os.getpid()) in notes:
            return  # the freeze has forked too
        notes.append((text, os.getpid()))

    os.register_at_fork(before=lambda: note("before fork"), after_in_child=lambda: note("in child"))


def blocked_in_fork_handlers() -> set[int]:
    """What the handler below saw in this process, which is a clone."""
    return blocked_at_birth


def note_blocked_signals() -> None:
    def look() -> None:
        blocked_at_birth.update(signal.pthread_sigmask(signal.SIG_BLOCK, []))

    os.register_at_fork(after_in_child=look)


def hook_notes() -> tuple[int, list[tuple[str, int]]]:
    return os.getpid(), notes


def start_thread() -> None:
    threading.Thread(target=time.sleep, args=(1000,), daemon=True, name="sleeper").start()


def open_a_connection() -> None:
    """A connected socket that all clones would share."""
    import socket

    listening = socket.create_server(("127.0.0.1", 0))
    kept.append((socket.create_connection(listening.getsockname()), listening.accept()[0]))
    listening.close()


def wait_for_fifo(path: str) -> str:
    os.close(os.open(path, os.O_RDONLY))
    return "went"


# -- what tests ask --------------------------------------------------------------------------------


def ends(pidfd: int, seconds: float = 15) -> bool:
    """Whether the process ends in time."""
    return bool(select.select([pidfd], [], [], seconds)[0])


def until(condition: Callable[[], object], seconds: float) -> bool:
    """Whether the condition comes true in time; it does something itself, so this does not sleep."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
    return False


def count_descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def private_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/smaps_rollup") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line and "-" not in line.split(":")[0])
    return int(fields["Anonymous"].split()[0]) * 1024


PAGES = 200
_pages = bytearray()


def warm_pages() -> None:
    _pages.extend(os.urandom((PAGES + 2) * 4096))


def write_pages() -> int:
    """Writes to every page of what the setup made; how many faults that took."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for page in range(PAGES):
        _pages[page * 4096 + 2048] = 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def run_threads_and_fork() -> list[str]:
    """Threads work in a clone, and a fork of the clone has only its own."""
    seen: list[str] = []
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="in the clone")
    thread.start()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        names = [each.name for each in threading.enumerate()]
        other = threading.Thread(target=lambda: names.append("ran"))
        other.start()
        other.join()
        os.write(writing, " ".join(names).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    seen.append(os.read(reading, 1000).decode())
    stop.set()
    thread.join()
    seen.append(str(threading.active_count()))
    return seen
