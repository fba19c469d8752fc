"""Real libraries: what their use leaves behind is flagged, that they are loaded is not."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.audit import audit_of, named

FORKED = """
import signal
def forked(question):
    # What a forked process answers within three seconds, or None.
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(3)
        os.write(writing, str(question()).encode())
        os._exit(0)
    os.close(writing)
    answer = os.read(reading, 100).decode()
    os.waitpid(pid, 0)
    return answer or None
"""


def need(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")


def worse_than_a_note(found: list[dict[str, str]]) -> list[dict[str, str]]:
    return [hazard for hazard in found if hazard["severity"] != "note"]


@pytest.mark.parametrize(
    "module", ["numpy", "numpy.random", "grpc", "trio", "uvloop", "duckdb", "polars", "pyarrow", "torch"]
)
def test_a_library_that_is_merely_loaded_is_no_danger(module: str) -> None:
    need(module.partition(".")[0])
    assert worse_than_a_note(audit_of(f"import {module}")) == []


def test_the_pool_of_openblas_is_noted_and_one_thread_is_no_pool() -> None:
    need("numpy")
    (hazard,) = named(audit_of("import numpy", env={"OPENBLAS_NUM_THREADS": "2"}), "openblas-pool")
    assert hazard["severity"] == "note"
    assert "1 native thread" in hazard["evidence"] and "openblas" in hazard["evidence"]
    assert not named(audit_of("import numpy", env={"OPENBLAS_NUM_THREADS": "1"}), "openblas-pool")


OPENMP_SOURCE = """
int total(int n)
{
    int sum = 0;
#pragma omp parallel for reduction(+ : sum)
    for (int i = 0; i < n; i++)
        sum += i & 1;
    return sum;
}
"""


@pytest.fixture
def openmp(tmp_path: Path) -> Path:
    """A library with one parallel loop, on the libgomp of this machine's compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to build an OpenMP library")
    source, library = tmp_path / "total.c", tmp_path / "total.so"
    source.write_text(OPENMP_SOURCE)
    built = subprocess.run(
        [compiler, "-fopenmp", "-shared", "-fPIC", "-o", library, source], capture_output=True, check=False
    )
    if built.returncode:
        pytest.skip(f"this compiler builds no OpenMP: {built.stderr.decode()}")
    return library


def test_the_pool_of_openmp_is_a_danger_that_a_fork_confirms(openmp: Path) -> None:
    load = f"import ctypes; total = ctypes.CDLL({str(openmp)!r}).total"
    check = f"{FORKED}\n{load}\nassert total(100) == 50\nassert forked(lambda: total(100)) is None"
    (hazard,) = named(audit_of(check, env={"OMP_NUM_THREADS": "2"}), "openmp-pool")
    assert hazard["severity"] == "danger"
    assert "libgomp" in hazard["evidence"]
    assert audit_of(load, env={"OMP_NUM_THREADS": "2"}) == []


GRPC = """
import grpc
from concurrent.futures import ThreadPoolExecutor

class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: request)

def use():
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    assert channel.unary_unary("/a/b")(b"x", timeout=10) == b"x"
    return server, channel
"""


def test_the_threads_of_grpc_are_flagged_by_their_own_names() -> None:
    need("grpc")
    found = audit_of(GRPC + "held = use()")
    (hazard,) = named(found, "grpc-threads")
    assert hazard["severity"] == "warning"
    assert "event_engine" in hazard["evidence"] and "cygrpc" in hazard["evidence"]
    assert named(found, "socket-connected")
    assert not named(audit_of(GRPC), "grpc-threads")


ARROW = """
import pyarrow
table = pyarrow.table({"value": list(range(1000)), "key": [number % 7 for number in range(1000)]})
def use():
    return table.group_by("key").aggregate([("value", "sum")]).num_rows
"""
POLARS = """
import polars
frame = polars.DataFrame({"value": list(range(1000)), "key": [number % 7 for number in range(1000)]})
def use():
    return frame.group_by("key").agg(polars.col("value").sum()).height
"""
DUCKDB = """
import duckdb
def use():
    global connection
    connection = duckdb.connect(config={"threads": 2})
    return connection.execute("select count(*) from range(7)").fetchall()[0][0]
"""


@pytest.mark.parametrize(
    ("module", "source", "name", "severity", "answer"),
    [
        ("pyarrow", ARROW, "arrow-pool", "note", "7"),
        ("polars", POLARS, "polars-pool", "danger", None),
        ("duckdb", DUCKDB, "duckdb-threads", "danger", None),
    ],
)
def test_a_pool_is_as_severe_as_a_fork_shows(
    module: str, source: str, name: str, severity: str, answer: str | None
) -> None:
    need(module)
    check = f"{FORKED}\n{source}\nuse()\nassert forked(use) == {answer!r}"
    found = named(audit_of(check, env={"PYTHONWARNINGS": "ignore"}), name)
    assert [hazard["severity"] for hazard in found] == [severity]
    assert not named(audit_of(source), name)


def test_a_database_of_duckdb_is_recognised_by_its_first_bytes() -> None:
    need("duckdb")
    body = (
        "import duckdb; connection = duckdb.connect('data.db'); connection.execute('create table t (x int)')"
    )
    (hazard,) = named(audit_of(body + "; connection.execute('checkpoint')"), "database-file")
    assert "(DuckDB)" in hazard["evidence"]
    assert not named(audit_of("import duckdb; memory = duckdb.connect()"), "database-file")


@pytest.mark.parametrize(
    ("module", "body"),
    [
        ("trio", "import trio\nasync def main():\n    report()\ntrio.run(main)"),
        ("uvloop", "import uvloop\nasync def main():\n    report()\nuvloop.run(main())"),
    ],
)
def test_running_loops_of_other_libraries_are_flagged(module: str, body: str) -> None:
    need(module)
    (hazard,) = [one for one in named(audit_of(body, ends=""), "event-loop") if one["severity"] == "danger"]
    assert module in hazard["evidence"]
    ended = body.replace("report()", "pass")
    assert not named(audit_of(ended), "event-loop")


@pytest.mark.parametrize(
    ("module", "evidence", "hazard", "twin"),
    [
        ("numpy", "numpy.random was drawn from", "numpy.random.random()", "numpy.random"),
        ("numpy", "numpy.random was seeded", "numpy.random.seed(1)", "numpy.random.default_rng"),
        ("torch", "torch was seeded", "torch.manual_seed(1)", "torch.random"),
        ("torch", "torch was drawn from", "torch.rand(1)", "torch.zeros(1)"),
    ],
)
def test_a_global_generator_is_noted_once_it_was_used(
    module: str, evidence: str, hazard: str, twin: str
) -> None:
    need(module)
    (found,) = named(audit_of(f"import {module}; {hazard}"), "prng-global")
    assert (found["severity"], found["evidence"]) == ("note", evidence)
    assert not named(audit_of(f"import {module}; {twin}"), "prng-global")


@pytest.mark.parametrize("made", ["default_rng(1)", "RandomState(1)", "Generator(numpy.random.Philox(1))"])
def test_a_generator_of_numpy_that_the_program_holds_is_flagged(made: str) -> None:
    need("numpy")
    (hazard,) = named(audit_of(f"import numpy; mine = numpy.random.{made}"), "prng-object")
    assert hazard["severity"] == "warning"
    assert "numpy.random" in hazard["evidence"]


@pytest.mark.parametrize("made", ["default_rng()", "RandomState()", "Generator(numpy.random.MT19937())"])
def test_a_generator_of_numpy_is_only_noted_until_it_is_drawn_from(made: str) -> None:
    need("numpy")
    body = f"import numpy; mine = numpy.random.{made}"
    (untouched,) = named(audit_of(body), "prng-object")
    assert untouched["severity"] == "note"
    (drawn,) = named(audit_of(body + "; mine.normal()"), "prng-object")
    assert drawn["severity"] == "warning"
