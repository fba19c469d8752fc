"""Programs and applications that `benchmarks/doctor.py` has looked at, before and after the remedy."""

from __future__ import annotations

# Families that run (tests/integration/sharing_fixtures.py). `ns`: a fork, or the first touches of a child.
TIMED = """
import statistics, time
def forks():
    times = []
    for _ in range(7):
        begun = time.perf_counter_ns()
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        times.append(time.perf_counter_ns() - begun)
        os.waitpid(pid, 0)
    return statistics.median(times)
"""

SMALL = (
    TIMED
    + """
memory = area(1024 << 8)
memory[::PAGE] = b"1" * (len(memory) // PAGE)
# HERE
tell(ns=forks(), child=fork(int))
"""
)

SPLIT = (
    TIMED
    + """
memory = area(1024 << 8, huge=True)
memory[::PAGE] = b"1" * (len(memory) // PAGE)
# HERE
reading, writing = os.pipe()
def work():
    begun = time.perf_counter_ns()
    for at in range(0, len(memory), 2 << 20):
        memory[at] = 2
    os.write(writing, str(time.perf_counter_ns() - begun).encode())
tell(child=fork(work), ns=int(os.read(reading, 99)))
"""
)

TABLES = """
memory = area(1024 << 8)
memory[::PAGE] = b"1" * (len(memory) // PAGE)
# HERE
tell(children=[fork(int) for _ in range(34)])
"""

SCATTERED = """
shape, dtype = 6 << 30, "u1"
table = area(shape // PAGE)
# HERE
for at in range(0, shape, 2 << 20):
    table[at] = 1
tell(children=[fork(int) for _ in range(6)])
"""

# A child that writes 300 of each 512 pages, and lets khugepaged make huge pages of them.
COLLAPSED = """
memory = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
write(memory, len(memory) // PAGE)
def work():
    memory.madvise(mmap.MADV_HUGEPAGE)
    for first in range(0, len(memory) // PAGE, 512):
        write(memory, 300, first)
tell(child=fork(work))
"""

WSGI = """
ITEMS = [{"id": number, "price": number * 1.5} for number in range(200_000)]
def app(environ, start_response):
    total = sum(item["price"] for item in ITEMS)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""

CELERY = """
from celery import Celery
from celery.signals import worker_ready
app = Celery("shop", broker="memory://")
app.conf.task_ignore_result = True
ITEMS = [{"id": number, "price": number * 1.5} for number in range(200_000)]
@app.task
def total():
    return sum(item["price"] for item in ITEMS)
@worker_ready.connect
def send(**_):
    for _ in range(40):
        total.delay()
"""

LOADER = """
from torch.utils.data import DataLoader, Dataset
class Images(Dataset):
    def __init__(self, count):
        self.samples = [{"path": f"{number}.png", "label": number % 10} for number in range(count)]
    def __len__(self):
        return len(self.samples)
    def __getitem__(self, index):
        return self.samples[index]["label"]
loader = DataLoader(
    Images(200_000), batch_size=256, num_workers=2, persistent_workers=True, multiprocessing_context="fork"
)
# HERE
for epoch in range(2):
    for batch in loader:
        pass
print("epochs done", flush=True)
input()
"""
