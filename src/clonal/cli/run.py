"""`clonal run`: a script as `__main__` in N fresh clones of a warm template."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

from clonal.bench.script import job as job_module
from clonal.bench.script.gate import Meter
from clonal.bench.script.job import Job, make_job
from clonal.bench.script.strategies import Timing, run_clone, stand_in_main
from clonal.cli import targets
from clonal.cli.main import Parser, UserMistake
from clonal.cli.run_report import RunReport
from clonal.cli.tracebacks import users_part
from clonal.clone.template import Template
from clonal.errors import SetupFailed

MEASURED = 32  # runs whose private memory is read: each reading holds a run back for milliseconds
COMPARE_ROUNDS = 20


def parser() -> Parser:
    """The verb's command line."""
    made = Parser(
        prog="clonal run",
        usage="clonal run [options] SCRIPT [ARGS...]",
        description="Run SCRIPT as __main__ in N fresh clones of a warm template, and say what it took.",
        epilog=f"Each run finds its number, from 0, in the environment variable {job_module.INDEX_VARIABLE}. "
        "A single run reads this command's standard input, several read none. "
        "Exit status: the script's own for one run; of several, 0 if all exited 0, else 1.",
    )
    made.add_argument("--preload", action="append", default=[], metavar="M", type=_modules,
                      help="import these modules before cloning (repeat, or separate by commas)")  # fmt: skip
    made.add_argument("--setup", metavar="S", help="call module:function or file.py:function before cloning")
    made.add_argument("-n", type=_count, default=None, metavar="N",
                      help=f"how many runs (1; with --compare {COMPARE_ROUNDS})")  # fmt: skip
    made.add_argument("-j", type=_count, default=None, metavar="J",
                      help="how many at a time (as many as CPUs; --compare runs one at a time)")  # fmt: skip
    made.add_argument("--compare", action="store_true",
                      help="the same script by cold start, forkserver, os.fork and clone, in turn; "
                      "its standard output is dropped")  # fmt: skip
    made.add_argument("--json", action="store_true",
                      help="the report as JSON; the script's output goes to standard error")  # fmt: skip
    made.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return made


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def _modules(text: str) -> list[str]:
    return [name for name in (part.strip() for part in text.split(",")) if name]


def main(argv: Sequence[str]) -> int:
    """Run the verb; returns its exit status."""
    arguments = parser().parse_args(argv)
    arguments.command = arguments.command[arguments.command[:1] == ["--"] :]
    if not arguments.command:
        raise UserMistake("which script? usage: clonal run [options] SCRIPT [ARGS...]")
    script = targets.script(arguments.command[0])
    preload = [name for group in arguments.preload for name in group]
    sys.path[0] = str(script.resolve().parent)  # as `python SCRIPT` has it; the template takes it over
    targets.check_modules(preload)
    setup = targets.setup(arguments.setup) if arguments.setup else None
    job = _compiled(script, arguments)
    if job is None:
        return 1
    warnings.formatwarning = lambda message, *_, **__: f"clonal: {message}\n"
    try:
        if arguments.compare:
            return _compare(job, preload, setup, arguments)
        return _run(job, preload, setup, arguments)
    except SetupFailed as failure:
        print(f"{users_part(failure.data['traceback'])}clonal: {failure.message}", file=sys.stderr)
        return 1


def _compiled(script: Path, arguments: argparse.Namespace) -> Job | None:
    """The job; None where the script does not compile, after showing the user's own traceback."""
    stdout = "null" if arguments.compare else "stderr" if arguments.json else None
    try:
        return make_job(str(script), tuple(arguments.command[1:]), stdout)
    except SyntaxError as error:
        traceback.print_exception(type(error), error, None)
        return None
    except ValueError as error:  # null bytes, before 3.12
        raise UserMistake(f"{script} is not a Python script: {error}") from None


def _template(preload: list[str], setup: str | None) -> Template:
    """A template that knows nothing of this command: its `__main__` will be the script."""
    with stand_in_main("<clonal run>"):
        return Template(preload=[*preload, job_module.__name__], setup=setup)


def _run(job: Job, preload: list[str], setup: str | None, arguments: argparse.Namespace) -> int:
    runs = arguments.n or 1
    jobs = min(arguments.j or os.cpu_count() or 1, runs)
    if runs == 1:  # several would take each other's input
        job = replace(job, stdin=job_module.own_stdin())
    report = RunReport(job.path, runs, jobs)
    with _template(preload, setup) as template:
        report.warmed()
        with contextlib.closing(Meter()) as meter, progress(runs) as tick:
            for timing in _in_clones(template, job, runs, jobs, meter.name):
                report.timings.append(timing)
                tick(timing.exitcode != 0)
            report.done()
        report.private = meter.found
        report.imports = template.stats().imports
    if arguments.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        report.show(sys.stderr)
    return report.exit_status()


def _in_clones(template: Template, job: Job, runs: int, jobs: int, gate: str) -> Iterator[Timing]:
    """The runs' timings as they end. On Ctrl-C or an error no further run starts, and closing the
    template ends those that go on."""
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="clonal-run")
    try:
        futures: list[Future[Timing]] = [
            pool.submit(run_clone, template, job.numbered(index, gate if index < MEASURED else ""))
            for index in range(runs)
        ]
        for future in as_completed(futures):
            yield future.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        template.close()
        raise
    finally:
        pool.shutdown()


def _compare(job: Job, preload: list[str], setup: str | None, arguments: argparse.Namespace) -> int:
    from clonal.bench.script import compare, strategies

    rounds = arguments.n or COMPARE_ROUNDS
    environ = strategies.environment(job.path)
    with contextlib.ExitStack() as stack:
        template = stack.enter_context(_template(preload, setup))
        made: list[strategies.Strategy] = []
        for make in (
            lambda: strategies.Cold(environ),
            lambda: strategies.Forkserver(environ, preload, setup),
            lambda: strategies.Fork(environ, preload, setup),
            lambda: strategies.CloneOf(template),
        ):
            made.append(make())
            stack.callback(made[-1].close)
        tick = stack.enter_context(progress(rounds * len(made)))
        rows = compare.compare(made, job, rounds, template.report.bytes_imaged, lambda name: tick(False))
    if arguments.json:
        print(json.dumps(compare.to_json(job.path, rows), indent=2))
    else:
        compare.show(rows, sys.stdout)
    return 1 if any(row.failed for row in rows) else 0


@contextlib.contextmanager
def progress(total: int) -> Iterator[Any]:
    """A bar on standard error where that is a terminal; yields tick(failed)."""
    if total == 1 or not sys.stderr.isatty():
        yield lambda failed: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]}"), TimeRemainingColumn())
    failures = 0
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("runs", total=total, failed="")

        def tick(failed: bool) -> None:
            nonlocal failures
            failures += failed
            bar.update(task, advance=1, failed=f"[red]{failures} failed" if failures else "")

        yield tick
