"""Run the example: check 1,000 answers, compare with life without Clonal, measure.

    python run.py [REQUESTS]

Exit status 1 if one answer of a clone differs from the answer of this process, which is never
frozen.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote, urlsplit

import app

from clonal.kernel import procfs
from clonal.report import table

HERE = Path(__file__).resolve().parent
REQUESTS = 1000
FORK_REQUESTS = 300  # enough for a rate; what is checked is the clones
CONCURRENCY = 8
SAMPLES = 20  # requests after which the pages of the fork are counted
ROUNDS = 15


def main(arguments: Sequence[str]) -> int:
    """Everything, in the order it is printed."""
    count = int(arguments[0]) if arguments else REQUESTS
    began = time.perf_counter()
    app.warm()
    warm_seconds = time.perf_counter() - began
    describe(warm_seconds)
    phrases = app.requests(count)
    expected = [app.handle(phrase) for phrase in phrases]
    print(f"\n{count:,} distinct requests over HTTP, {CONCURRENCY} at a time:")
    wrong = serve_with("clone", "service.py", phrases, expected)
    fewer = slice(FORK_REQUESTS)
    wrong += serve_with("os.fork", "fork_service.py", phrases[fewer], expected[fewer])
    sys.stdout.flush()
    status = compare(phrases[:ROUNDS])
    return 1 if wrong else status


def describe(warm_seconds: float) -> None:
    """What was loaded, and where."""
    gc.collect()
    rss = procfs.smaps_rollup()["Rss"]
    share = app.object_bytes() / rss
    version = importlib.metadata.version("symspellpy")
    print(f"symspellpy {version}: {app.summary()}")
    print(f"{rss / 1e6:.0f} MB, {share:.0%} of it Python objects, warm in {warm_seconds:.1f} s")
    print(f"{os.cpu_count()} CPUs ({cpu()}), Linux {platform.release()}, CPython {platform.python_version()}")


def cpu() -> str:
    """The processor's name, if the kernel says it."""
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


@contextlib.contextmanager
def service(script: str) -> Iterator[tuple[str, int]]:
    """A running service: its address, and its pid."""
    process = subprocess.Popen([sys.executable, str(HERE / script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        if not url:
            raise SystemExit(f"{script} did not start (exit status {process.wait()})")
        yield urlsplit(url).netloc, process.pid
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def serve_with(name: str, script: str, phrases: Sequence[str], expected: Sequence[str]) -> int:
    """Send all requests to one service and print how it went; returns the number of wrong answers."""
    with service(script) as (address, pid):
        began = time.perf_counter()
        with ThreadPoolExecutor(CONCURRENCY) as pool:
            answers = list(pool.map(lambda phrase: ask(address, phrase), phrases))
        rate = len(phrases) / (time.perf_counter() - began)
        note = untouched(address, pid, phrases[:SAMPLES]) if name == "os.fork" else ""
    p50 = statistics.median(seconds for _, seconds in answers)
    wrong = [
        (phrase, want, got)
        for phrase, want, (got, _) in zip(phrases, expected, answers, strict=True)
        if got != want
    ]
    verdict = f"{len(wrong):,} WRONG ANSWERS" if wrong else f"all {len(phrases):,} answers right"
    print(f"  each in its own {name:8} {rate:5.0f} a second, p50 {table.seconds(p50)}, {verdict}{note}")
    for phrase, want, got in wrong[:10]:
        print(f"    {phrase!r}: {got!r}, unfrozen {want!r}")
    return len(wrong)


def ask(address: str, phrase: str) -> tuple[str, float]:
    """(the service's answer, seconds it took)."""
    began = time.perf_counter()
    with contextlib.closing(HTTPConnection(address, timeout=60)) as connection:
        answer = get(connection, phrase)
    return answer, time.perf_counter() - began


def get(connection: HTTPConnection, phrase: str) -> str:
    """One request on an open connection; an error of the service counts as an answer, a wrong one."""
    connection.request("GET", f"/?phrase={quote(phrase)}")
    response = connection.getresponse()
    body = response.read().decode()
    return body if response.status == 200 else f"HTTP {response.status}: {body}"


def untouched(address: str, pid: int, phrases: Sequence[str]) -> str:
    """The share of its pages that a fork has left as they were after one request. The fork lives
    as long as its connection, so its pages are counted from here."""
    shares = []
    for phrase in phrases:
        with contextlib.closing(HTTPConnection(address, timeout=60)) as connection:
            get(connection, phrase)
            child = children(pid)[-1]
            shares.append(1 - procfs.private_bytes(child) / procfs.smaps_rollup(child)["Rss"])
    return f", {statistics.median(shares):.1%} of pages untouched"


def children(pid: int) -> list[int]:
    """The pids of a process's children, the youngest last."""
    return [int(child) for child in procfs.read(f"task/{pid}/children", pid).split()]


def compare(phrases: Sequence[str]) -> int:
    """The same request as a script by four strategies; returns the exit status."""
    command = ["run", "--compare", "-n", str(len(phrases)), "--setup", "app:prepare", "ask.py", "PHRASES"]
    print(f"\n$ clonal {' '.join(command)}", flush=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.writelines(f"{phrase}\n" for phrase in phrases)
        file.flush()
        command[-1] = file.name
        return subprocess.run([sys.executable, "-m", "clonal.cli.main", *command], cwd=HERE).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
