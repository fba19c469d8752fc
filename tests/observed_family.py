"""A family whose copies are known: python -m tests.observed_family WORKERS. Each worker writes to PAGES pages
for each line that comes in; at the end of input all end. What is done is said in a line."""

from __future__ import annotations

import os
import sys

PAGES = 256
PAGE = 4096
TIMES = 2
buffer = bytearray(PAGE * PAGES * TIMES)
buffer[::PAGE] = b"1" * (PAGES * TIMES)


def write_part(part: int) -> None:
    for at in range(part * PAGES * PAGE, (part + 1) * PAGES * PAGE, PAGE):
        buffer[at] = 2


def work(orders: int, done: int) -> None:
    part = 0
    while os.read(orders, 1):
        write_part(part)
        part += 1
        os.write(done, b"x")


def start() -> tuple[int, int]:
    """A worker; where it takes orders and says that it is done."""
    (orders, order), (done, say) = os.pipe(), os.pipe()
    if os.fork() == 0:
        os.close(order)
        for fd in inherited:
            os.close(fd)
        work(orders, say)
        os._exit(0)
    os.close(orders)
    os.close(say)
    return order, done


inherited: list[int] = []  # what a later worker must not hold open


def main(workers: int) -> None:
    pipes = []
    for _ in range(workers):
        pipes.append(start())
        inherited.append(pipes[-1][0])
    print("ready", flush=True)
    while sys.stdin.readline():
        for order, _ in pipes:
            os.write(order, b"x")
        for _, done in pipes:
            os.read(done, 1)
        print("done", flush=True)
    for order, _ in pipes:
        os.close(order)
    for _ in pipes:
        os.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]))
