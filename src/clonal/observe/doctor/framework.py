"""Which framework forks, and where in it what belongs before the fork is written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from enum import StrEnum

from clonal.observe.doctor.finding import Remedy
from clonal.observe.named import script


class Framework(StrEnum):
    GUNICORN = "gunicorn"
    CELERY = "celery"
    LOADER = "DataLoader"
    MULTIPROCESSING = "multiprocessing"
    PLAIN = "os.fork"
    NONE = "no Python"


_FILES = {
    "/gunicorn/arbiter.py": Framework.GUNICORN,
    "/billiard/process.py": Framework.CELERY,
    "/torch/utils/data/_utils/worker.py": Framework.LOADER,
    "/multiprocessing/process.py": Framework.MULTIPROCESSING,
    "/_multiprocessing.": Framework.MULTIPROCESSING,  # the module's library, among the mappings
}
_PLACES = {
    Framework.LOADER: "before the loop over the DataLoader begins",
    Framework.MULTIPROCESSING: "before the first Process or Pool is made",
    Framework.PLAIN: "before the first os.fork()",
}
_PROGRAMS = {
    Framework.GUNICORN: "gunicorn",
    Framework.CELERY: "celery",
    Framework.LOADER: "pt_data_worker",  # a worker's name (torch/utils/data/_utils/worker.py: _worker_loop)
}
CONFIGURATION = "in gunicorn.conf.py"


def recognise(commands: Iterable[Sequence[str]], files: Iterable[str]) -> Framework:
    """By command lines, the names of processes, and the files: those that a forked process runs in, or of
    libraries that are loaded."""
    names = {program(command) for command in commands}
    for each, name in _PROGRAMS.items():
        if name in names:
            return each
    loaded = set(files)
    for part, framework in _FILES.items():
        if any(part in file for file in loaded):
            return framework
    return Framework.PLAIN


def program(command: Sequence[str]) -> str:
    """The name of what runs: of the script or module where it is an interpreter's."""
    first = next(script(command), command[0]) if command else ""
    path = first.removesuffix("/__main__.py")
    return os.path.basename(path).rstrip(":")  # gunicorn's title is "gunicorn: master"


def before_fork(framework: Framework, module: str, call: str) -> Remedy:
    """A call that is to be the last before the first fork."""
    if framework is Framework.GUNICORN:
        # gunicorn/arbiter.py: Arbiter.start calls when_ready after the app was loaded, before any worker
        return Remedy(
            CONFIGURATION, (f"import {module}; preload_app = True", f"def when_ready(server): {call}")
        )
    if framework is Framework.CELERY:
        # celery/worker/worker.py: WorkController.setup_instance sends worker_init before it makes the pool
        lines = (f"import {module}; from celery.signals import worker_init",
                 f"worker_init.connect(lambda **_: {call}, weak=False)")  # fmt: skip
        return Remedy("in the module that makes the Celery app", lines)
    return Remedy(_PLACES[framework], (f"import {module}", call))


def in_child(framework: Framework, call: str, module: str = "") -> Remedy:
    """A call that each forked process is to make first."""
    needs = (f"import {module}",) if module else ()
    if framework is Framework.NONE:
        return Remedy("first in the child", (call,))
    if framework is Framework.GUNICORN:
        return Remedy(CONFIGURATION, (*needs, f"def post_fork(server, worker): {call}"))
    if framework is Framework.CELERY:
        # celery/concurrency/prefork.py: process_initializer sends it in each process of the pool
        begun = "; ".join((*needs, "from celery.signals import worker_process_init"))
        lines = (begun, f"worker_process_init.connect(lambda **_: {call}, weak=False)")
        return Remedy("in the module that makes the Celery app", lines)
    if framework is Framework.LOADER:
        return Remedy(
            "where the DataLoader is made", (*needs, f"DataLoader(…, worker_init_fn=lambda _: {call})")
        )
    return Remedy("first in the child", (*needs, call))


def at_start(framework: Framework, lines: Sequence[str]) -> Remedy:
    """Lines that are to run in the parent."""
    if framework is Framework.GUNICORN:
        return Remedy("at the top of the application's module, with preload_app", tuple(lines))
    if framework is Framework.CELERY:
        return Remedy("at the top of the module that makes the Celery app", tuple(lines))
    return Remedy("at the top of the program", tuple(lines))
