"""What a fork of a Python process takes beyond that of any other: run in a process of its own.

python -m clonal.plan.interpreter waits for a line, so that its memory can be looked at, then prints JSON:
`fork`, nanoseconds of one os.fork; `faults`, those of the parent in it; `pages`, private pages of a child
that did a small job; `pages_image`, the same after clonal.freeze().
"""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import time
from collections.abc import Callable

from clonal.kernel import procfs

FORKS = 40
ROUNDS = 3  # the last one is taken: the first children still find things to be made once
REQUEST = '{"path": "/search", "query": "copy on write", "limit": 10}'


def small_job() -> str:
    """What any child does at least: reads a request, looks something up, words an answer."""
    request = json.loads(REQUEST)
    words = sorted(re.findall(r"\w+", request["query"]), key=len)
    with open("/proc/self/comm", encoding="ascii") as file:
        return json.dumps({"words": words, "name": file.read().strip(), "limit": request["limit"] + 1})


def pages_of_child() -> int:
    """Private pages of a child that did the small job and waits."""
    from_child, to_parent = os.pipe()
    from_parent, to_child = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(to_child)
            small_job()
            os.write(to_parent, b".")
            os.read(from_parent, 1)  # until the other end is closed
        finally:
            os._exit(0)
    try:
        os.close(to_parent)
        os.read(from_child, 1)
        return procfs.private_bytes(pid) // os.sysconf("SC_PAGESIZE")
    finally:
        for fd in (from_child, from_parent, to_child):
            os.close(fd)
        os.waitpid(pid, 0)


def fork_once() -> tuple[int, int]:
    """Nanoseconds of one call of os.fork, and the faults of this process in it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    start = time.perf_counter_ns()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    took = time.perf_counter_ns() - start
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    os.waitpid(pid, 0)
    return took, faults


def settled(count: Callable[[], int]) -> int:
    """The last of some rounds."""
    return [count() for _ in range(ROUNDS)][-1]


def main() -> int:
    import clonal

    small_job()
    print(os.getpid(), flush=True)
    sys.stdin.readline()
    took, faults = sorted(fork_once() for _ in range(FORKS))[FORKS // 4]
    pages = settled(pages_of_child)
    clonal.freeze()
    found = {"fork": took, "faults": faults, "pages": pages, "pages_image": settled(pages_of_child)}
    print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
