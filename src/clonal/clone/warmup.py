"""From a fresh process to a warm one, single-threaded and frozen."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import pickle
import sys
import types
from typing import Any

from clonal import _native
from clonal.clone import ending, hooks, imports, main_rule, worker
from clonal.clone import surroundings as _loaded_for_clones  # noqa: F401
from clonal.clone.options import apply_environment
from clonal.clone.server import Config, Ready, blame
from clonal.clone.stale import Snapshot

RECORDING = "clonal.observe.record.clones"
RECORDED = "CLONAL_RECORD"  # in the environment of what `clonal record` runs


def warm(config: Config) -> Ready:
    """Does all that the configuration says; raises WarmupFailed."""
    _adopt_surroundings(config)
    with blame("importing __main__"):
        main_rule.adopt(config.main)  # type: ignore[arg-type]
    for name in config.preload:
        with blame(f"preload {name!r}"):
            importlib.import_module(name)
    if config.setup is not None:
        with blame("setup" if isinstance(config.setup, bytes) else f"setup {config.setup!r}"):
            run_setup(config.setup)
    return settle(config)


def settle(config: Config) -> Ready:
    """Hooks, threads, audit, freeze: what `Template.here` needs too."""
    if config.by_value:
        importlib.import_module("cloudpickle")
    with blame("a before_clone hook"):
        hooks.run_before()
    if not config.here:
        ending.remember_template_exit()
    with blame("reading the freeze options"):
        options = pickle.loads(config.freeze)[0] if isinstance(config.freeze, bytes) else config.freeze
    _native.quiesce()  # the thread pools of numeric libraries stop by their fork handlers
    hazards = _audit(config.private_fds)
    refuse = options is not None and options["threads"] == "refuse"
    dropped = config.dropped + ([] if refuse else leave_threads())
    _record(config.record)
    imports.watch()
    ready = Ready(os.getpid(), hazards=hazards, dropped_threads=dropped)
    ready.files = Snapshot.take() if config.stale else None
    ending.flush_streams()
    worker.prepare_template()
    with blame("freezing"):
        ready.report = _freeze(options)
    return ready


def _record(path: str | None) -> None:
    """Of clones. The recording is no part of this layer: it is loaded as a user's module is."""
    if path is not None or RECORDED in os.environ:
        with blame("record"):
            importlib.import_module(RECORDING).prepare(path)


def _adopt_surroundings(config: Config) -> None:
    if config.sys_path is not None:
        sys.path[:] = config.sys_path
    if config.argv is not None:
        sys.argv[:] = config.argv
    apply_environment(config.env, config.cwd)


def run_setup(setup: str | bytes) -> None:
    """Calls the setup: "module:function", "file.py:function" or a pickled callable."""
    if isinstance(setup, bytes):
        (function,) = pickle.loads(setup)
    else:
        module_name, _, function_name = setup.rpartition(":")
        function = _load_file(module_name) if module_name.endswith(".py") else None
        function = function or importlib.import_module(module_name)
        for part in function_name.split("."):
            function = getattr(function, part)
    function()


def _load_file(path: str) -> types.ModuleType:
    """A file as the module its name says, so that its functions can be named."""
    name = os.path.basename(path)[: -len(".py")]
    path = os.path.abspath(path)
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__file__", None) == path:
        return loaded
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.append(os.path.dirname(path))  # clones of functions in it, and what it imports later
    spec.loader.exec_module(module)
    return module


def leave_threads() -> list[str]:
    """Makes the process single-threaded; returns the names of the threads left behind."""
    if len(os.listdir("/proc/self/task")) == 1:
        return []
    from clonal.clone.succession import succeed

    return succeed()


def _audit(private_fds: tuple[int, ...]) -> list[Any]:
    from clonal.image.audit import audit

    return list(audit(ignore_fds={0, 1, 2, *private_fds}))


def _freeze(options: dict[str, Any] | None) -> Any:
    if options is None:
        gc.collect()
        gc.freeze()
        return None
    from clonal.image.freeze import freeze

    return freeze(**options)
