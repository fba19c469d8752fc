"""Runs CPython's own test suites in a process and writes what came of each test.

    suites.py plain|frozen|forked|clones MEGABYTES OUTCOMES.json MODULE…

The test modules and a heap of MEGABYTES are loaded first. `plain` runs all tests there; `frozen` after
`clonal.freeze()`; `forked` each module in a forked child; `clones` each module in a clone of a template.
plain is frozen's twin and forked that of clones: the outcomes of twins must be the same.
"""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import pickle
import sys
import unittest
from collections.abc import Callable, Iterator
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
OURS = "frozen_objects"  # a suite of our own, beside this file: it changes what was frozen
SECONDS_A_MODULE = 900
OBJECTS_A_MEGABYTE = 3500
HEAP: list[Any] = []

Outcomes = dict[str, str]


class Recorder(unittest.TestResult):
    """Notes each test's outcome by its id; a failed subtest fails the test."""

    def __init__(self) -> None:
        super().__init__()
        self.outcomes: Outcomes = {}
        self.texts: dict[str, str] = {}

    def _note(self, test: Any, outcome: str, error: Any = None) -> None:
        self.outcomes[test.id()] = outcome
        if error is not None:
            self.texts[test.id()] = self._exc_info_to_string(error, test)

    def addSuccess(self, test: Any) -> None:
        self.outcomes.setdefault(test.id(), "ok")

    def addError(self, test: Any, err: Any) -> None:
        self._note(test, "error", err)

    def addFailure(self, test: Any, err: Any) -> None:
        self._note(test, "failure", err)

    def addSkip(self, test: Any, reason: str) -> None:
        self._note(test, "skipped")

    def addExpectedFailure(self, test: Any, err: Any) -> None:
        self._note(test, "expected failure")

    def addUnexpectedSuccess(self, test: Any) -> None:
        self._note(test, "unexpected success")

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            self._note(test, "failure", err)


def fill_heap(megabytes: int) -> None:
    """At 300 MB: over a million objects, two thirds raw bytes."""
    for index in range(megabytes * OBJECTS_A_MEGABYTE // 4):
        HEAP.append({"index": index, "name": f"name {index}", "list": [index, str(index)]})
    HEAP.append(bytearray(os.urandom(1 << 20) * (megabytes * 2 // 3)))


def load(modules: list[str]) -> None:
    if len(modules) > 1 or modules[0] != OURS:
        from test import support

        support.use_resources = ["subprocess", "decimal"]
        support.verbose = 0
    for name in modules:
        __import__(full_name(name))


def full_name(module: str) -> str:
    return module if module == OURS else f"test.{module}"


def warm() -> None:
    """What comes before the freeze: the arguments are those of the program."""
    sys.path.insert(0, HERE)
    fill_heap(int(sys.argv[2]))
    load(sys.argv[4:])


def run_module(module: str) -> tuple[Outcomes, dict[str, str]]:
    faulthandler.dump_traceback_later(SECONDS_A_MODULE, exit=True)
    recorder = Recorder()
    unittest.defaultTestLoader.loadTestsFromName(full_name(module)).run(recorder)
    faulthandler.cancel_dump_traceback_later()
    return recorder.outcomes, recorder.texts


def in_process(modules: list[str]) -> Iterator[tuple[Outcomes, dict[str, str]]]:
    for module in modules:
        yield run_module(module)


def in_forked(modules: list[str]) -> Iterator[tuple[Outcomes, dict[str, str]]]:
    for module in modules:
        read, write = os.pipe()
        if (pid := os.fork()) == 0:
            answer = pickle.dumps(run_module(module))
            with os.fdopen(write, "wb") as pipe:
                pipe.write(answer)
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            answer = pipe.read()
        os.waitpid(pid, 0)
        yield pickle.loads(answer)


def in_clones(modules: list[str]) -> Iterator[tuple[Outcomes, dict[str, str]]]:
    import clonal

    with clonal.Template(setup=warm) as template:
        imaged = template.report.bytes_imaged >> 20
        print(f"imaged {imaged} MB, {template.report.immortal_objects} immortal objects", file=sys.stderr)
        for module in modules:
            yield template.clone(run_module, module).result()


def frozen(modules: list[str]) -> Iterator[tuple[Outcomes, dict[str, str]]]:
    import clonal

    report = clonal.freeze()
    print(report, file=sys.stderr)
    return in_process(modules)


WAYS: dict[str, Callable[[list[str]], Iterator[tuple[Outcomes, dict[str, str]]]]] = {
    "plain": in_process,
    "frozen": frozen,
    "forked": in_forked,
    "clones": in_clones,
}


def main() -> None:
    way, _, path, *modules = sys.argv[1:]
    if way != "clones":
        warm()
    outcomes: Outcomes = {}
    texts: dict[str, str] = {}
    for module, (found, said) in zip(modules, WAYS[way](modules), strict=True):
        outcomes |= found
        texts |= said
        print(f"{way} {module}: {len(found)} tests", file=sys.stderr, flush=True)
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"outcomes": outcomes, "texts": texts}, file)


if __name__ == "__main__":
    multiprocessing.freeze_support()
    main()
    sys.stderr.flush()
    os._exit(0)  # some suites leave threads behind
