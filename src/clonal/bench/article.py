"""The article's benchmark script, and how many forks it really makes.

It means to time fork with and without copy-on-write. `bash -c 'fork() { :; }'` defines a shell
function called fork and ends: it never calls fork(2). The forks there are start the programs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

SCRIPT = """\
#!/usr/bin/env bash
# benchmark_fork.sh – measures fork latency with and without COW
for i in {1..10}; do
/usr/bin/time -f "%e" bash -c 'fork() { :; }' 2>&1
done
"""
_CALL = re.compile(r"^(\d+)\s+(?:<\.\.\. )?(fork|vfork|clone3?|execve)\b(.*)")


def run_article(folder: Path) -> dict[str, Any]:
    """Runs the script; returns its seconds, what it printed and its forks by who made them."""
    if shutil.which("bash") is None:
        return {"skipped": "no bash to run it"}
    script = folder / "benchmark_fork.sh"
    script.write_text(SCRIPT, "utf-8")
    argv = ["bash", str(script)]
    start = time.monotonic()
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    found: dict[str, Any] = {
        "seconds": time.monotonic() - start,
        "printed": done.stdout.split("\n")[:3],
        "time_installed": os.access("/usr/bin/time", os.X_OK),
    }
    return found | _count(argv, folder)


def _count(argv: list[str], folder: Path) -> dict[str, Any]:
    traced = _count_traced(argv, folder / "trace") if shutil.which("strace") else None
    if traced is not None:
        return {
            "counted_by": "strace -f",
            "forks": sum(traced.values()),
            "by": dict(traced),
        }
    return {
        "counted_by": "/proc/stat, least of 5 runs",
        "forks": _count_untraced(argv),
        "by": {},
    }


def _count_traced(argv: list[str], output: Path) -> Counter[str] | None:
    """Forks by the program that made them; None where tracing is not allowed."""
    calls = "trace=fork,vfork,clone,clone3,execve"
    done = subprocess.run(
        ["strace", "-f", "-qq", "-s", "256", "-e", calls, "-o", str(output), *argv],
        capture_output=True,
        check=False,
    )
    if done.returncode not in (0, 127) or not output.exists():
        return None
    return parse_trace(output.read_text("utf-8", errors="replace"))


def parse_trace(text: str) -> Counter[str]:
    """Counts forks in strace's output by what the forking process had last exec'd.

    >>> trace = '1 execve("/bin/bash", ["bash", "x.sh"], 0x7ff /* 9 vars */) = 0'
    >>> parse_trace(trace + "\\n1 clone(child_stack=NULL, flags=SIGCHLD) = 2")
    Counter({'bash x.sh': 1})
    """
    program: dict[str, str] = {}
    forks: Counter[str] = Counter()
    for line in text.splitlines():
        match = _CALL.match(line)
        if match is None or "unfinished" in line:
            if match is not None and match[2] == "execve":
                program[match[1]] = _program(match[3])
            continue
        pid, call, rest = match.groups()
        if call == "execve":
            if rest.endswith("= 0") and '"' in rest:
                program[pid] = _program(rest)
        elif (child := rest.rpartition("= ")[2].split(" ")[0]).isdecimal():
            forks[program.get(pid, "?")] += 1
            program.setdefault(child, program.get(pid, "?"))
    return forks


def _program(arguments: str) -> str:
    words = re.findall(r'"((?:[^"\\]|\\.)*)"', arguments.partition("[")[2].partition("]")[0])
    return " ".join(Path(word).name if word.startswith("/") else word for word in words)


def _count_untraced(argv: list[str]) -> int:
    """Processes made in the whole system during a run; others can only add to the least of five."""
    counts = []
    for _ in range(5):
        before = _processes()
        subprocess.run(argv, capture_output=True, check=False)
        counts.append(_processes() - before - 1)  # less the fork that started bash
    return min(counts)


def _processes() -> int:
    for line in Path("/proc/stat").read_text("ascii").splitlines():
        if line.startswith("processes "):
            return int(line.split()[1])
    return 0
