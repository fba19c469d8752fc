"""Programs with one fault each. A line `# HERE` is where the remedy's lines go, `# FORK` begins what they
replace; without a fault the child does next to nothing."""

from __future__ import annotations

PRELUDE = """
import os, sys
def run(work, processes=1):
    pids = []
    for _ in range(processes):
        pid = os.fork()
        if pid == 0:
            work()
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        if os.waitpid(pid, 0)[1]:
            sys.exit("a child has failed")
"""

REFERENCE_COUNTS = (
    PRELUDE
    + """
pairs = [(number, number) for number in range(100_000)]
def work():
    for pair in pairs:
        pass
# HERE
run(work)
"""
)

# As a DataLoader does: workers that are given indices, and read the objects of a data set.
MULTIPROCESSING = """
import multiprocessing
class Items:
    def __init__(self, count):
        self.samples = [{"path": f"{number}.png", "label": number % 10} for number in range(count)]
    def __getitem__(self, index):
        return self.samples[index]["label"]
def work(data, indices):
    for index in iter(indices.get, None):
        data[index]
data = Items(40_000)
# HERE
fork = multiprocessing.get_context("fork")
indices = fork.SimpleQueue()
workers = [fork.Process(target=work, args=(data, indices)) for _ in range(2)]
for worker in workers:
    worker.start()
for index in [*range(len(data.samples)), None, None]:
    indices.put(index)
for worker in workers:
    worker.join()
"""

GC = (
    PRELUDE
    + """
import gc
class Node:
    def __init__(self, number):
        self.number = number
nodes = [Node(number) for number in range(40_000)]
# HERE
run(gc.collect)
"""
)

ALLOCATOR = (
    PRELUDE
    + """
blocks = [bytes(467) for number in range(24_000)]
blocks = [block for number, block in enumerate(blocks) if number % 8]
def work():
    kept = [None] * 3_000
    for number in range(3_000):
        kept[number] = bytes(467)
# HERE
run(work)
"""
)

# Strings: their makers do not clear them first, and of a pool of four pages one has the header.
ALLOCATOR_STRINGS = (
    PRELUDE
    + """
texts = [str(number).ljust(420) for number in range(24_000)]
texts = [text for number, text in enumerate(texts) if number % 8]
def work():
    return [str(number).ljust(420) for number in range(3_000)]
# HERE
run(work)
"""
)

IMPORTS = (
    PRELUDE
    + """
# HERE
# The wear of a program that has run for some time: free blocks in all pools.
wear = [bytes(size) for size in range(0, 480, 16) for _ in range(4_000)]
wear = wear[::2]
def work():
    import asyncio
    import unittest.mock
    import xml.dom.minidom
    import email.mime.text
run(work)
"""
)

EXEC = (
    PRELUDE
    + """
memory = bytearray(80 << 20)
memory[::4096] = b"1" * (len(memory) // 4096)
# FORK
pid = os.fork()
if pid == 0:
    os.execvp("true", ["true"])
# END
os.waitpid(pid, 0)
"""
)

PREEXEC = (
    PRELUDE
    + """
import subprocess
memory = bytearray(80 << 20)
memory[::4096] = b"1" * (len(memory) // 4096)
for _ in range(3):
    subprocess.run(["true"], preexec_fn=os.setsid)
"""
)

TABLES = (
    PRELUDE
    + """
import numpy
shape, dtype = 1000 * 4096, numpy.uint8
table = numpy.zeros(shape, dtype)
# HERE
table[:] = 1
def work():
    table[::4096] += 1
run(work, 2)
"""
)

HEALTHY = (
    PRELUDE
    + """
pairs = [(number, number) for number in range(100_000)]
def work():
    return sum(range(1000))
run(work, 3)
"""
)

HEALTHY_POOL = """
import gc, multiprocessing, numpy
shape, dtype = (1000, 512), numpy.int64
table = numpy.ones(shape, dtype)
shared = multiprocessing.get_context("fork").RawArray("q", 4 << 20)
def work(number):
    rows = numpy.frombuffer(shared, dtype).reshape(-1, 512)
    rows[number] = table[number]
    return int(rows[number].sum())
gc.freeze()
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert sum(pool.map(work, range(1000))) == 512_000
"""

SETS_SIGNALS = (
    PRELUDE
    + """
import signal
memory = bytearray(b"1") * (4 << 20)
def work():
    signal.signal(signal.SIGTRAP, signal.SIG_DFL)
    memory[::4096] = b"2" * (len(memory) // 4096)
run(work)
"""
)


def treated(program: str, lines: list[str]) -> str:
    """The program with a remedy's lines, as they stand."""
    text = "\n".join(lines)
    if "# FORK" in program:
        head, _, rest = program.partition("# FORK")
        return f"{head}pid = {text}\n{rest.partition('# END')[2]}"
    return program.replace("# HERE", text)
