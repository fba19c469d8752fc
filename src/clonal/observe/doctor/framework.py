"""Which framework forks, and where in it what belongs before the fork is written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from enum import StrEnum

from clonal.observe.doctor.finding import Remedy


class Framework(StrEnum):
    GUNICORN = "gunicorn"
    CELERY = "celery"
    LOADER = "DataLoader"
    MULTIPROCESSING = "multiprocessing"
    PLAIN = "os.fork"


_FILES = {
    "/gunicorn/": Framework.GUNICORN,
    "/celery/": Framework.CELERY,
    "/billiard/": Framework.CELERY,
    "/torch/utils/data/": Framework.LOADER,
    "/multiprocessing/": Framework.MULTIPROCESSING,
    "/_multiprocessing.": Framework.MULTIPROCESSING,  # the module's library, among the mappings
}
_PLACES = {
    Framework.LOADER: "before the loop over the DataLoader begins",
    Framework.MULTIPROCESSING: "before the first Process or Pool is made",
    Framework.PLAIN: "before the first os.fork()",
}
LOADS = "pt_data_worker"  # what a worker calls itself (torch/utils/data/_utils/worker.py: _worker_loop)
CONFIGURATION = "in gunicorn.conf.py"


def recognise(words: Iterable[str], files: Iterable[str]) -> Framework:
    """By the command line, the names of processes, and the files of modules and libraries that are loaded."""
    names = {os.path.basename(word) for word in words}
    for each in (Framework.GUNICORN, Framework.CELERY):
        if each.value in names:
            return each
    if LOADS in names:
        return Framework.LOADER
    loaded = set(files)
    for part, framework in _FILES.items():
        if any(part in file for file in loaded):
            return framework
    return Framework.PLAIN


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
