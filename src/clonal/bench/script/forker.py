"""A warm process that forks once for each job: what os.fork offers without Clonal.

Started as `python -m clonal.bench.script.forker FD`; jobs come, and outcomes go, over the socket FD.
After the warm-up it collects garbage and calls gc.freeze(), as a careful user would.
"""

from __future__ import annotations

import gc
import os
import pickle
import sys
import time
from multiprocessing.connection import Connection

import clonal.bench.script.warm  # noqa: F401  # importing it is the warm-up
from clonal.bench.script.job import Job, Outcome, execute


def main(fd: int) -> None:
    """Serve lists of jobs until the other end closes."""
    connection = Connection(fd)
    gc.collect()
    gc.freeze()
    connection.send(os.getpid())
    while True:
        try:
            jobs: list[Job] = connection.recv()
        except EOFError:
            return
        children = [fork(job) for job in jobs]
        connection.send([child.reap() for child in children])


class Child:
    """A fork that runs a job; `outcome` arrives on a pipe."""

    def __init__(self, pid: int, pipe: int, called_ns: int) -> None:
        self.pid = pid
        self._pipe = pipe
        self._called_ns = called_ns

    def reap(self) -> tuple[int, int | None, int, int]:
        """(called, started or None, finished, wait status), times in ns."""
        with open(self._pipe, "rb") as pipe:
            answer = pipe.read()
        _, status = os.waitpid(self.pid, 0)
        finished = time.monotonic_ns()
        outcome: Outcome | None = pickle.loads(answer) if answer else None
        if outcome is None:
            return self._called_ns, None, finished, status
        return self._called_ns, outcome.started_ns, finished, status or outcome.exitcode << 8


def fork(job: Job) -> Child:
    """Run the job in a fork of this process."""
    reader, writer = os.pipe()
    called = time.monotonic_ns()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os.write(writer, pickle.dumps(execute(job)))
        os._exit(0)
    os.close(writer)
    return Child(pid, reader, called)


if __name__ == "__main__":
    main(int(sys.argv[1]))
