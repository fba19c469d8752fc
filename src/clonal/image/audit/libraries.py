"""What is known of the thread pools of common libraries, and of fork."""

from __future__ import annotations

from dataclasses import dataclass

from clonal.image.audit.hazard import Severity
from clonal.image.audit.tasks import Task


@dataclass(frozen=True)
class Library:
    pattern: str  # in the path of the library that owns the thread, or in the thread's own name
    hazard: str
    severity: Severity
    why: str
    remedy: str


KNOWN = (
    Library(
        "jemalloc_bg_thd",
        "background-thread",
        "note",
        "jemalloc's purging of unused memory stops in a clone",
        "nothing to do",
    ),
    Library(
        "polars-ooc",
        "background-thread",
        "note",
        "Polars' removal of its temporary files is left to the template",
        "nothing to do",
    ),
    Library(
        "openblas",
        "openblas-pool",
        "note",
        "OpenBLAS's fork handler stops its pool and the next call starts it again",
        "nothing to do; OPENBLAS_NUM_THREADS=1 saves the handler's time at each fork",
    ),
    Library(
        "libgomp",
        "openmp-pool",
        "danger",
        "GNU OpenMP has no fork handler: a parallel region in a clone waits for threads it does not have",
        "warm up with OMP_NUM_THREADS=1 (or torch.set_num_threads(1)); use threads in the clones only",
    ),
    Library(
        "libiomp",
        "openmp-pool",
        "note",
        "LLVM/Intel OpenMP starts its pool anew in a forked process",
        "nothing to do; OMP_NUM_THREADS=1 for the warm-up avoids the pool",
    ),
    Library(
        "libomp",
        "openmp-pool",
        "note",
        "LLVM/Intel OpenMP starts its pool anew in a forked process",
        "nothing to do; OMP_NUM_THREADS=1 for the warm-up avoids the pool",
    ),
    Library(
        "cygrpc",
        "grpc-threads",
        "warning",
        "gRPC's fork handlers run only while no thread is inside gRPC; otherwise, and for servers, calls "
        "in a clone hang",
        "close the channels and servers of the warm-up before the freeze, open new ones in the clone",
    ),
    Library(
        "libarrow",
        "arrow-pool",
        "note",
        "Arrow's fork handlers make new pools in a forked process",
        "nothing to do if no Arrow call runs during the fork; pyarrow.set_cpu_count(1) for the warm-up",
    ),
    Library(
        "polars",
        "polars-pool",
        "danger",
        "the pool of Polars (rayon) is gone in a clone: its next query waits for ever",
        "run no Polars query before the freeze, or set POLARS_MAX_THREADS=1; query in the clones",
    ),
    Library(
        "duckdb",
        "duckdb-threads",
        "danger",
        "DuckDB's workers are gone in a clone: to close or drop a connection there waits for them for ever",
        "close the connection before the freeze, or SET threads=1; connect in the clones",
    ),
)

UNKNOWN = Library(
    "",
    "native-thread",
    "danger",
    "clones do not have it",
    "stop what started it before the freeze, or start it in the clones: a lock that the thread holds "
    "stays locked in clones for ever",
)


def owner_of(task: Task) -> Library:
    """What is known of a native thread: by its own name first, then by its library."""
    for library in KNOWN:
        if library.pattern in task.comm or library.pattern in task.owner.lower():
            return library
    return UNKNOWN
