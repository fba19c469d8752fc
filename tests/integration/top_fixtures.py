"""Families for the tests of clonal top: workers that do what they are told, page by page."""

from __future__ import annotations

# The script itself observes: it starts a root, whose workers answer when they have done what they were asked.
FAMILY = """
import ctypes, gc, math, mmap, os, select, sys, tempfile
from clonal.observe.top.sampler import Sampler

PAGE = mmap.PAGESIZE
PAGES = 1000
NOISE = 16  # pages that an interpreter writes of its own to hear and do it

def area(pages, fd=-1):
    flags = mmap.MAP_PRIVATE | (mmap.MAP_ANONYMOUS if fd < 0 else 0)
    made = mmap.mmap(fd, pages * PAGE, flags=flags)
    made.madvise(mmap.MADV_NOHUGEPAGE)
    return made

def write(made, pages):
    for page in range(pages):
        made[page * PAGE] = 1

def look(made, pages):
    return sum(made[page * PAGE] for page in range(pages))

class Worker:
    def __init__(self, orders, answers):
        self.orders, self.answers = orders, answers
        self.pid = int(os.read(answers, 64))
    def ask(self, order):
        os.write(self.orders, order.encode())
        assert os.read(self.answers, 1) == b"x"
    def end(self):
        gone = os.pidfd_open(self.pid)
        os.close(self.orders)
        select.select([gone], [], [])
        os.close(gone)

def serve(orders, answers, hold, memory, file):
    kept = []
    def grow(count):
        kept.append(area(count))
        write(kept[-1], count)
    def fork(count):
        if os.fork() == 0:
            os.close(orders)
            os.read(hold, 1)
            os._exit(0)
    works = dict(
        write=lambda count: write(memory, count), grow=grow, look=lambda count: look(file, count),
        scribble=lambda count: write(file, count), fork=fork,
        hide=lambda count: ctypes.CDLL(None).prctl(4, 0, 0, 0, 0),  # PR_SET_DUMPABLE
    )
    os.write(answers, str(os.getpid()).encode())
    while order := os.read(orders, 64).decode():
        name, count = order.split()
        works[name](int(count))
        os.write(answers, b"x")
    os._exit(0)

def family(count):
    orders, answers = [os.pipe() for _ in range(count)], [os.pipe() for _ in range(count)]
    hold, held = os.pipe()
    gc.collect()
    gc.disable()
    root = os.fork()
    if root == 0:
        os.close(held)
        for _, end in orders:
            os.close(end)
        memory = area(PAGES)
        write(memory, PAGES)
        with tempfile.TemporaryFile() as made:
            made.write(bytes(PAGES * PAGE))
            made.flush()
            file = area(PAGES, made.fileno())
        look(file, PAGES)
        for number in range(count):
            if os.fork() == 0:
                serve(orders[number][0], answers[number][1], hold, memory, file)
        os.read(hold, 1)
        os._exit(0)
    workers = [Worker(orders[n][1], answers[n][0]) for n in range(count)]
    for worker in workers:  # what is done for the first time copies more
        for order in ("write 1", "grow 1", "look 1", "scribble 1", "write 1"):
            worker.ask(order)
    return root, workers

seconds = iter(range(1000))
def sampler(pid, budget=math.inf):
    return Sampler(pid, budget, clock=lambda: float(next(seconds)))

def by_pid(sample):
    return {row.pid: row for row in sample.rows}

def near(value, pages):
    assert pages <= value <= pages + NOISE, (value, pages)

def about(size, pages):
    # pages of libraries come in sixteen at a time, and are shared or not as strangers map them
    assert abs(size / PAGE - pages) <= 5 * NOISE, (size / PAGE, pages)
"""
