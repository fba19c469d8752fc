"""For each hazard a process that has it, and a twin that merely has the library loaded."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from tests.audit import audit_of, named


class Case(NamedTuple):
    name: str
    severity: str
    evidence: str  # text that the evidence must hold
    hazard: str
    twin: str


CASES = [
    Case(
        "python-thread",
        "danger",
        "'poller'",
        """
        import threading
        gate = threading.Event()
        threading.Thread(target=gate.wait, name="poller").start()
        """,
        """
        import threading
        thread = threading.Thread(target=int)
        thread.start(); thread.join()
        """,
    ),
    Case(
        "python-thread",
        "danger",
        "started with _thread",
        """
        import _thread
        started, gate = _thread.allocate_lock(), _thread.allocate_lock()
        started.acquire(); gate.acquire()
        def body():
            started.release()
            gate.acquire()
        _thread.start_new_thread(body, ())
        started.acquire()
        """,
        "import _thread; lock = _thread.allocate_lock()",
    ),
    Case(
        "thread-pool",
        "danger",
        "ThreadPoolExecutor 'warm' with 1 thread",
        """
        from concurrent.futures import ThreadPoolExecutor
        pool = ThreadPoolExecutor(2, thread_name_prefix="warm")
        pool.submit(int).result()
        """,
        """
        from concurrent.futures import ThreadPoolExecutor
        idle = ThreadPoolExecutor(2)
        with ThreadPoolExecutor(2) as pool:
            pool.submit(int).result()
        """,
    ),
    Case(
        "thread-pool",
        "danger",
        "ThreadPool with 5 threads",
        "from multiprocessing.pool import ThreadPool; pool = ThreadPool(2)",
        """
        from multiprocessing.pool import ThreadPool
        with ThreadPool(2) as pool:
            pool.map(int, "12")
        pool.join()
        """,
    ),
    Case(
        "process-pool",
        "danger",
        "ProcessPoolExecutor with",
        """
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))
        pool.submit(int).result()
        done = pool.shutdown
        """,
        """
        from concurrent.futures import ProcessPoolExecutor
        pool = ProcessPoolExecutor(1)
        """,
    ),
    Case(
        "event-loop",
        "danger",
        "running: asyncio",
        """
        import asyncio
        async def main():
            report()
        asyncio.run(main())
        """,
        "import asyncio; asyncio.run(asyncio.sleep(0))",
    ),
    Case(
        "event-loop",
        "warning",
        "open, not running",
        "import asyncio; loop = asyncio.new_event_loop()",
        "import asyncio; loop = asyncio.new_event_loop(); loop.close()",
    ),
    Case(
        "socket-connected",
        "danger",
        "to 127.0.0.1:",
        """
        import socket
        server = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(server.getsockname())
        """,
        "import socket; fresh = socket.socket()",
    ),
    Case(
        "socket-connected",
        "danger",
        "to [0:0:0:0:0:0:0:1]:",
        """
        import socket
        server = socket.create_server(("::1", 0), family=socket.AF_INET6)
        client = socket.create_connection(server.getsockname()[:2])
        """,
        "import socket; fresh = socket.socket(socket.AF_INET6)",
    ),
    Case(
        "socket-connected",
        "danger",
        "unix",
        "import socket; ends = socket.socketpair()",
        "import socket; fresh = socket.socket(socket.AF_UNIX)",
    ),
    Case(
        "socket-listening",
        "warning",
        "tcp 127.0.0.1:",
        "import socket; server = socket.create_server(('127.0.0.1', 0))",
        "import socket; server = socket.create_server(('127.0.0.1', 0)); server.close()",
    ),
    Case(
        "socket-listening",
        "warning",
        "udp 127.0.0.1:",
        """
        import socket
        bound = socket.socket(type=socket.SOCK_DGRAM)
        bound.bind(("127.0.0.1", 0))
        """,
        "import socket; fresh = socket.socket(type=socket.SOCK_DGRAM)",
    ),
    Case(
        "pipe",
        "warning",
        "writes to pipe:",
        "ends = os.pipe()",
        "ends = os.pipe(); os.close(ends[0]); os.close(ends[1])",
    ),
    Case(
        "epoll",
        "warning",
        "watches 1",
        "import select; poll = select.epoll(); poll.register(os.eventfd(0))",
        "import select; poll = select.epoll()",
    ),
    Case(
        "shared-file-offset",
        "warning",
        "out.txt at 3 of 3",
        "file = open('out.txt', 'wb', buffering=0); file.write(b'abc')",
        "file = open('out.txt', 'wb', buffering=0); file.write(b'abc'); file.close()",
    ),
    Case(
        "shared-file-offset",
        "warning",
        "reads",
        "fd = os.open(__file__, os.O_RDONLY); os.read(fd, 1)",
        "fd = os.open(__file__, os.O_RDONLY); os.pread(fd, 1, 0)",
    ),
    Case(
        "append-file",
        "note",
        "appends to",
        "import logging; logging.getLogger().addHandler(logging.FileHandler('log.txt'))",
        "import logging; logging.getLogger().addHandler(logging.FileHandler('log.txt', delay=True))",
    ),
    Case(
        "unflushed-data",
        "warning",
        "'out.txt' holds 5 bytes",
        "file = open('out.txt', 'wb'); file.write(b'hello')",
        "file = open('out.txt', 'ab'); file.write(b'hello'); file.flush()",
    ),
    Case(
        "unflushed-data",
        "warning",
        "holds 6 characters",
        "file = open('out.txt', 'w'); file.write('hello'); file.write('!')",
        "file = open('out.txt', 'a'); file.write('hello'); file.flush()",
    ),
    Case(
        "unflushed-data",
        "warning",
        "holds 5 characters",
        "file = open(os.pipe()[1], 'w'); file.write('hello')",
        "file = open(os.pipe()[1], 'w'); file.write('hello'); file.flush()",
    ),
    Case(
        "unflushed-data",
        "warning",
        "'<stdout>' holds 3 characters",
        "print('hi')",
        "print('hi', flush=True)",
    ),
    Case(
        "unflushed-data",
        "warning",
        "holds 5 bytes",
        "file = open(os.pipe()[1], 'wb'); file.write(b'hello')",
        "file = open(os.pipe()[1], 'wb'); file.write(b'hello'); file.flush()",
    ),
    Case(
        "database-file",
        "danger",
        "(SQLite)",
        """
        import sqlite3
        connection = sqlite3.connect("data.db")
        connection.execute("create table t (x)")
        """,
        """
        import sqlite3
        memory = sqlite3.connect(":memory:")
        closed = sqlite3.connect("data.db")
        closed.execute("create table t (x)")
        closed.close()
        """,
    ),
    Case(
        "prng-global",
        "note",
        "random was drawn from",
        "import random; random.random()",
        "import random",
    ),
    Case(
        "prng-object",
        "warning",
        "random.Random",
        "import random; mine = random.Random(1); mine.random()",
        "import random, tempfile; random.SystemRandom().random(); tempfile.mkstemp(); mine = random.Random()",
    ),
    Case(
        "environment-captured",
        "note",
        "settings.SERVICE_URL",
        """
        import types
        os.environ["SERVICE_URL"] = "http://localhost"
        sys.modules["settings"] = settings = types.ModuleType("settings")
        exec("import os; SERVICE_URL = os.environ['SERVICE_URL']", vars(settings))
        """,
        """
        import types
        os.environ["SERVICE_URL"] = "http://localhost"
        sys.modules["settings"] = settings = types.ModuleType("settings")
        exec("import os; url = lambda: os.environ['SERVICE_URL']; SERVICE_URL = None", vars(settings))
        """,
    ),
    Case(
        "environment-captured",
        "note",
        "settings.ENV",
        """
        import types
        sys.modules["settings"] = settings = types.ModuleType("settings")
        exec("import os; ENV = dict(os.environ)", vars(settings))
        """,
        """
        import types
        sys.modules["settings"] = settings = types.ModuleType("settings")
        exec("import os; ENV = os.environ; DEFAULTS = {'A': '1', 'B': '2', 'C': '3'}", vars(settings))
        """,
    ),
    Case(
        "locale-captured",
        "note",
        "LC_NUMERIC=C.UTF-8",
        "import locale; locale.setlocale(locale.LC_ALL, 'C.UTF-8')",
        "import locale",
    ),
    Case(
        "multiprocessing-lock",
        "danger",
        "held now: Lock",
        "import multiprocessing; lock = multiprocessing.get_context('fork').Lock(); lock.acquire()",
        "import multiprocessing; lock = multiprocessing.get_context('fork').Lock()",
    ),
    Case(
        "multiprocessing-lock",
        "note",
        "1 free",
        "import multiprocessing; lock = multiprocessing.get_context('fork').Lock()",
        "import multiprocessing.synchronize",
    ),
    Case(
        "shared-memory",
        "warning",
        "psm_",
        """
        from multiprocessing.shared_memory import SharedMemory
        memory = SharedMemory(create=True, size=64)
        memory.unlink()
        """,
        """
        from multiprocessing.shared_memory import SharedMemory
        memory = SharedMemory(create=True, size=64)
        memory.close(); memory.unlink()
        """,
    ),
    Case(
        "resource-tracker",
        "note",
        "is its pipe",
        "from multiprocessing import resource_tracker; resource_tracker.ensure_running()",
        "from multiprocessing import resource_tracker",
    ),
    Case(
        "child-process",
        "warning",
        "pid ",
        "import subprocess; child = subprocess.Popen(['cat'], stdin=subprocess.PIPE)",
        "import subprocess; subprocess.run(['true'], check=True)",
    ),
    Case(
        "frozen-heap",
        "note",
        "objects are frozen",
        "import gc; gc.freeze()",
        "import gc; gc.freeze(); gc.unfreeze()",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}:{case.evidence}")
def test_only_the_process_that_has_the_hazard_is_flagged(case: Case) -> None:
    found = named(audit_of(case.hazard), case.name)
    assert [hazard["severity"] for hazard in found] == [case.severity], found
    assert case.evidence in found[0]["evidence"]
    twin = named(audit_of(case.twin), case.name)
    assert case.severity not in [hazard["severity"] for hazard in twin], twin
