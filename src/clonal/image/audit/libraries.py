"""What is known of the thread pools of common libraries, and of fork."""

from __future__ import annotations

from dataclasses import dataclass

from clonal.image.audit.hazard import Severity


@dataclass(frozen=True)
class Library:
    pattern: str  # in the path of the library that owns the thread
    hazard: str
    severity: Severity
    why: str
    remedy: str


KNOWN = (
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
        "danger",
        "channels and servers of gRPC do not survive a fork: calls in a clone hang",
        "create channels in the clone (in_clone hook) and close those of the warm-up before the freeze",
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
        "DuckDB's workers are gone in a clone: queries of this connection may wait for ever",
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


def owner_of(path: str) -> Library:
    """What is known of the library with this path."""
    lowered = path.lower()
    return next((library for library in KNOWN if library.pattern in lowered), UNKNOWN)
