"""Bringing a template up: what it is told, what it answers, what is shown to the user."""

from __future__ import annotations

import os
import pickle
import sys
import warnings
from dataclasses import dataclass, fields
from typing import Any

from clonal.clone import failure, main_rule, pickling, succession, wire
from clonal.clone.process import TemplateProcess
from clonal.clone.server import Config, Ready
from clonal.errors import SetupFailed, StaleCodeWarning, TemplateDied

_START_DIR = os.getcwd()


@dataclass
class Plan:
    """The arguments of a Template, kept to build it again."""

    preload: list[str]
    setup: Any
    env: dict[str, str | None] | None
    cwd: str | None
    standby: int
    stale: str
    startup_timeout: float | None
    freeze: dict[str, Any] | None
    here: bool
    record: str | None = None


def start(target: TemplateProcess, plan: Plan) -> tuple[pickling.ByValue | None, Ready]:
    """Starts the template and waits until it is warm. (the rule by which functions of this `__main__`
    travel by value, what the template says)"""
    main = None if plan.here else main_rule.describe(_START_DIR)
    by_value = None
    if main is None and _main_defines_functions():
        by_value = pickling.ByValue.forked() if plan.here else pickling.ByValue.fresh()
    config = _configuration(plan, main, by_value)
    try:
        if plan.here:
            _fork(target, config)
        else:
            target.start(plan.env)
            target.configure(wire.pack(_fields(config)))
        ready = _await_ready(target, plan.startup_timeout)
    except BaseException:
        target.kill()
        target.close()
        raise
    _show(ready, 6 if plan.here else 5)
    return by_value, ready


def _for_later(value: object, by_value: pickling.ByValue | None) -> bytes:
    """A pickle that the template opens once it has the caller's `__main__`."""
    flags, body, fds = pickling.pack_call((value,), by_value)
    return body if not flags else pickle.dumps(wire.unpack(flags, body, fds), protocol=5)


def _configuration(plan: Plan, main: main_rule.Main | None, by_value: pickling.ByValue | None) -> Config:
    setup = plan.setup
    if isinstance(setup, str) and ":" not in setup:
        raise ValueError(f'setup {setup!r} must be "module:function" or "file.py:function"')
    if setup is not None and not isinstance(setup, str):
        setup = _for_later(setup, by_value)
    freeze: Any = plan.freeze
    if freeze is not None and not plan.here:
        freeze = _for_later(freeze, by_value)
    return Config(
        sys_path=None if plan.here else [path or os.getcwd() for path in sys.path],
        argv=None if plan.here else list(sys.argv),
        cwd=plan.cwd if plan.here else plan.cwd or os.getcwd(),
        main=main,
        preload=plan.preload,
        setup=setup,
        freeze=freeze,
        standby=plan.standby,
        by_value=by_value is not None,
        stale=plan.stale != "ignore",
        here=plan.here,
        record=plan.record,
        dropped=succession.thread_names() if plan.here else [],
    )


def _fields(config: Config) -> tuple[Any, ...]:
    return tuple(getattr(config, field.name) for field in fields(config))


def _main_defines_functions() -> bool:
    """Whether something in `__main__` could have to travel by value: no file defines it (a prompt,
    `python -c`, or a program read from standard input, whose __file__ is "<stdin>" since 3.13)."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    return main_rule.is_interactive() or path is None or path.startswith("<")


def _fork(target: TemplateProcess, config: Config) -> None:
    ends = target.fork()
    if ends is not None:
        from clonal.clone.here import become_template

        become_template(*ends, config)


def _await_ready(target: TemplateProcess, timeout: float | None) -> Ready:
    message = target.next_message(timeout)
    if message is None:
        raise TemplateDied(target.pid, None, f"its warm-up took longer than {timeout:g} s and it was killed")
    data, fds = message
    if not data:
        target.ended(1.0)
        raise TemplateDied(target.pid, target.status, "during its warm-up")
    kind, flags, _, _, _ = wire.HEAD.unpack_from(data)
    payload = wire.payload_fds(flags)
    answer = wire.unpack(flags, data[wire.HEAD.size :], fds[:payload])
    if kind == wire.FAILED:
        raise _setup_failed(*answer)
    ready: Ready = answer
    if fds[payload:]:
        target.became(ready.pid, fds[payload])
    return ready


def _setup_failed(what: str, cause: Any) -> SetupFailed:
    error = SetupFailed(what, cause[2])
    original = failure.unpack_exception(failure.Failure(*cause))
    error.__cause__ = original
    return error


def _show(ready: Ready, stacklevel: int) -> None:
    """Warns once of what makes clones of this template unsafe."""
    grave = [hazard for hazard in ready.hazards if hazard.severity in ("danger", "warning")]
    if ready.dropped_threads and not any(hazard.name == "python-thread" for hazard in grave):
        names = ", ".join(ready.dropped_threads)
        warnings.warn(f"threads that clones will not have: {names}", RuntimeWarning, stacklevel)
    if grave:
        lines = "".join(f"\n  {hazard.name}: {hazard.evidence}; {hazard.remedy}" for hazard in grave)
        warnings.warn(f"cloning this template has hazards:{lines}", RuntimeWarning, stacklevel)


def warn_stale(changed: list[str]) -> None:
    """Says that the template runs older code than is on disk."""
    names = ", ".join(changed[:5]) + (" …" if len(changed) > 5 else "")
    text = f'the template has loaded files that changed since: {names}; make a new one, or stale="rebuild"'
    warnings.warn(text, StaleCodeWarning, stacklevel=5)
