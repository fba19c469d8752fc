"""Clone: results, exceptions, ends, options. All clones of one template."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import clonal
from tests import clone_work as work


@pytest.fixture(scope="module")
def template() -> Iterator[clonal.Template]:
    with clonal.Template(["logging.handlers"], "tests.clone_work:warm") as made:
        yield made


# -- results ---------------------------------------------------------------------------------------


def test_a_clone_returns_what_the_function_returns(template: clonal.Template) -> None:
    assert template.clone(work.add, 2, b=3).result() == 5


def test_a_clone_sees_what_the_setup_left(template: clonal.Template) -> None:
    assert template.clone(work.read_state).result() == ["warm"]


def test_every_clone_is_a_fresh_process(template: clonal.Template) -> None:
    first, second = (template.clone(work.append_state, "mine") for _ in range(2))
    assert first.result() == second.result() == ["warm", "mine"]
    assert first.pid != second.pid


def test_a_clone_is_a_child_of_the_template(template: clonal.Template) -> None:
    clone = template.clone(work.who)
    assert clone.result() == (clone.pid, template.pid)


@pytest.mark.parametrize("size", [0, 1, 32 * 1024 - 200, 32 * 1024 + 1, 200_000, 50_000_000])
def test_arguments_and_results_of_any_size_travel(template: clonal.Template, size: int) -> None:
    value = os.urandom(min(size, 1000)) * (size // 1000 + 1)
    assert template.clone(work.identity, value).result() == value


def test_many_small_arguments_travel(template: clonal.Template) -> None:
    value = list(range(100_000))
    assert template.clone(work.identity, value).result() == value


def test_large_buffers_travel_out_of_band_and_stay_writable(template: clonal.Template) -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(1_000_000, dtype="f8").reshape(1000, 1000)
    back = template.clone(work.identity, [array, array[:3].copy(), array.T]).result()
    assert all(numpy.array_equal(a, b) for a, b in zip(back, [array, array[:3], array.T], strict=True))
    back[0][0, 0] = 7
    assert array[0, 0] == 0


def test_lambdas_and_closures_travel_by_value(template: clonal.Template) -> None:
    factor = 3
    assert template.clone(lambda x: x * factor, 5).result() == 15


def test_an_argument_that_cannot_be_pickled_is_refused_here(template: clonal.Template) -> None:
    with pytest.raises(clonal.ResultNotPicklable, match="lock"):
        template.clone(work.identity, threading.Lock())


def test_a_result_that_cannot_be_pickled_is_described(template: clonal.Template) -> None:
    with pytest.raises(clonal.ResultNotPicklable, match="lock object at"):
        template.clone(work.unpicklable).result()


# -- exceptions ------------------------------------------------------------------------------------


def test_an_exception_arrives_with_the_remote_traceback_as_cause(template: clonal.Template) -> None:
    with pytest.raises(ValueError, match="no good") as caught:
        template.clone(work.fail, "no good").result()
    assert isinstance(caught.value.__cause__, clonal.RemoteTraceback)
    text = str(caught.value.__cause__)
    assert "clone_work.py" in text and "in fail" in text and "worker.py" not in text


def test_exception_returns_what_result_raises(template: clonal.Template) -> None:
    assert isinstance(template.clone(work.fail, "x").exception(), ValueError)
    assert template.clone(work.add, 1).exception() is None


def test_an_exception_that_cannot_be_rebuilt_is_described(template: clonal.Template) -> None:
    with pytest.raises(clonal.ResultNotPicklable, match="Stubborn") as caught:
        template.clone(work.fail_stubbornly).result()
    assert "fail_stubbornly" in str(caught.value.__cause__)


# -- ends ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_clone_that_dies_reports_its_signal(template: clonal.Template, signum: int) -> None:
    clone = template.clone(work.die, signum)
    with pytest.raises(clonal.CloneDied) as caught:
        clone.result()
    assert (caught.value.signal, caught.value.exitcode) == (signum, None)
    assert clone.wait() == clone.exitcode == -signum


@pytest.mark.parametrize(("argument", "code"), [(3, 3), (0, 0), (None, 0), ("message", 1)])
def test_sys_exit_ends_the_clone_with_that_code(
    template: clonal.Template, argument: object, code: int
) -> None:
    with pytest.raises(clonal.CloneDied) as caught:
        template.options(capture=True).clone(sys.exit, argument).result()
    assert caught.value.exitcode == code


def test_a_clone_that_is_interrupted_dies_of_sigint(template: clonal.Template) -> None:
    with pytest.raises(clonal.CloneDied) as caught:
        template.clone(work.interrupt).result()
    assert caught.value.signal == signal.SIGINT


def test_wait_returns_the_exit_code_and_the_usage_is_known(template: clonal.Template) -> None:
    clone = template.clone(work.add, 1)
    assert clone.wait() == 0
    assert clone.usage is not None and clone.usage.minor_faults > 0 and clone.usage.max_rss > 1 << 20


def test_kill_ends_a_running_clone_and_a_second_kill_is_harmless(template: clonal.Template) -> None:
    clone = template.clone(work.wait_for_ever)
    clone.kill()
    assert clone.wait() == -signal.SIGKILL
    clone.kill()


def test_result_with_a_timeout_only_stops_waiting(template: clonal.Template) -> None:
    with template.clone(work.wait_for_ever) as clone:
        with pytest.raises(clonal.CloneTimeout) as caught:
            clone.result(0.01)
        assert isinstance(caught.value, TimeoutError) and not caught.value.killed
        assert not clone.done()
        os.kill(clone.pid, 0)


def test_the_option_timeout_kills(template: clonal.Template) -> None:
    clone = template.options(timeout=0.05).clone(work.wait_for_ever)
    with pytest.raises(clonal.CloneTimeout) as caught:
        clone.result()
    assert caught.value.killed
    assert clone.exitcode == -signal.SIGKILL


def test_a_clone_within_its_timeout_is_left_alone(template: clonal.Template) -> None:
    clone = template.options(timeout=60).clone(work.add, 1)
    assert clone.result() == 2
    assert clone.wait() == 0


def test_done_becomes_true(template: clonal.Template) -> None:
    clone = template.clone(work.add, 1)
    select.select([clone.pidfd], [], [], 10)
    assert clone.done()
    assert clone.result() == 2


def test_leaving_with_kills_a_running_clone(template: clonal.Template) -> None:
    with template.clone(work.wait_for_ever) as clone:
        pid = clone.pid
    assert clone.exitcode == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_leaving_with_lets_a_clone_that_has_answered_end(template: clonal.Template, tmp_path: Path) -> None:
    with template.clone(work.register_exits, str(tmp_path / "notes")) as clone:
        clone.result()
    assert clone.exitcode == 0


def test_a_dropped_handle_warns_and_its_clone_is_killed(template: clonal.Template) -> None:
    clone = template.clone(work.wait_for_ever)
    pidfd = os.dup(clone.pidfd)
    try:
        with pytest.warns(ResourceWarning, match="dropped"):
            del clone
            gc.collect()
        assert select.select([pidfd], [], [], 10)[0], "the clone still runs"
    finally:
        os.close(pidfd)


def test_a_dropped_handle_does_not_kill_a_clone_whose_result_has_arrived(
    template: clonal.Template, tmp_path: Path
) -> None:
    path = tmp_path / "notes"
    clone = template.clone(work.leave_a_thread_writing, str(path))
    pidfd = os.dup(clone.pidfd)
    assert clone.result() == "returned"
    del clone
    assert select.select([pidfd], [], [], 10)[0]
    os.close(pidfd)
    assert path.read_text() == "thread "


def test_pidfd_refers_to_the_clone(template: clonal.Template) -> None:
    with template.clone(work.wait_for_ever) as clone:
        signal.pidfd_send_signal(clone.pidfd, signal.SIGKILL)
        assert clone.wait() == -signal.SIGKILL


def test_what_a_clone_registers_for_its_end_runs(template: clonal.Template, tmp_path: Path) -> None:
    template.clone(work.register_exits, str(tmp_path / "notes")).wait()
    assert sorted((tmp_path / "notes").read_text().split()) == ["atexit", "finalize"]


def test_files_are_flushed_at_the_end(template: clonal.Template, tmp_path: Path) -> None:
    template.clone(work.buffer_a_line, str(tmp_path / "file")).wait()
    assert (tmp_path / "file").read_text() == "buffered"


def test_log_records_kept_in_memory_are_written_at_the_end(template: clonal.Template, tmp_path: Path) -> None:
    template.clone(work.log_to, str(tmp_path / "log")).wait()
    assert "kept back" in (tmp_path / "log").read_text()


def test_a_grandchild_that_lives_on_does_not_hide_the_end(template: clonal.Template, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "release")
    with template.clone(work.fork_and_hold, str(tmp_path / "release")) as clone:
        grandchild = clone.result()
        assert clone.wait(10) == 0
    os.kill(grandchild, 0)
    os.close(os.open(tmp_path / "release", os.O_WRONLY))


# -- options ---------------------------------------------------------------------------------------


def test_options_set_environment_and_folder(template: clonal.Template, tmp_path: Path) -> None:
    chosen = template.options(env={"CLONAL_X": "y"}, cwd=tmp_path)
    assert chosen.clone(work.surroundings, "CLONAL_X").result() == ("y", str(tmp_path))
    assert template.clone(work.surroundings, "CLONAL_X").result() == (None, os.getcwd())
    assert template.options(env={"PATH": None}).clone(work.surroundings, "PATH").result()[0] is None


def test_a_folder_that_does_not_exist_is_the_clones_error(template: clonal.Template) -> None:
    with pytest.raises(FileNotFoundError):
        template.options(cwd="/nonexistent").clone(work.add, 1).result()


def test_output_is_captured(template: clonal.Template) -> None:
    clone = template.options(capture=True).clone(work.print_both)
    assert clone.stdout == b"to stdout\nby the descriptor\n"
    assert clone.stderr == b"to stderr\n"


def test_output_is_captured_although_the_clone_fails(template: clonal.Template) -> None:
    clone = template.options(capture=True).clone(work.print_and_die)
    assert clone.stdout == b"last words\n"
    with pytest.raises(clonal.CloneDied):
        clone.result()


def test_captured_output_may_be_large(template: clonal.Template) -> None:
    clone = template.options(capture=True).clone(work.print_much, 5_000_000)
    assert clone.result() is None
    assert len(clone.stdout) == 5_000_000


def test_output_that_was_not_captured_is_an_error(template: clonal.Template) -> None:
    with template.clone(work.add, 1) as clone, pytest.raises(ValueError, match="capture"):
        clone.stdout  # noqa: B018


def test_output_passes_through_and_is_out_before_the_result(
    template: clonal.Template, capfd: pytest.CaptureFixture[str]
) -> None:
    with clonal.Template() as own:
        own.clone(work.print_both).result()
    assert "to stdout\n" in capfd.readouterr().out


# -- surroundings of a clone -----------------------------------------------------------------------


def test_clones_draw_different_random_numbers(template: clonal.Template) -> None:
    assert len(set(template.map(work.draw_one, range(8)))) == 8


def test_clones_hold_no_descriptors_of_their_siblings_or_template(template: clonal.Template) -> None:
    with template.clone(work.wait_for_ever) as other:
        assert other.pid
        found = template.clone(work.open_descriptors).result()
    sockets = [target for target in found.values() if target.startswith("socket:")]
    assert len(sockets) == 1, found
    assert not [target for target in found.values() if "anon_inode" in target], found


def test_clones_are_killed_before_their_template_when_memory_is_short(template: clonal.Template) -> None:
    with open(f"/proc/{template.pid}/oom_score_adj") as file:
        assert template.clone(work.oom_score).result() > int(file.read())


def test_clones_have_the_callers_limits_and_signals(template: clonal.Template) -> None:
    assert template.clone(work.file_limit).result() == work.file_limit()
    blocked, handler = template.clone(work.signal_state).result()
    assert blocked == set() and handler == signal.SIG_DFL


def test_an_interrupt_waits_until_the_fork_handlers_have_run() -> None:
    """A KeyboardInterrupt raised in one of them would be reported and lost."""
    with clonal.Template(setup=work.note_blocked_signals) as template:
        assert signal.SIGINT in template.clone(work.blocked_in_fork_handlers).result()


def test_threads_work_in_clones_and_forks_of_clones_have_their_own(template: clonal.Template) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert template.clone(work.run_threads_and_fork).result() == ["MainThread ran", "1"]


# -- many at once ----------------------------------------------------------------------------------


def test_map_yields_in_order_and_at_most_so_many_run(template: clonal.Template) -> None:
    taken = []

    def items() -> Iterator[int]:
        for i in range(10):
            taken.append(i)
            yield i

    results = template.map(work.add, items(), concurrency=3)
    assert next(results) == 1
    assert len(taken) <= 4
    assert list(results) == list(range(2, 11))


def test_map_ends_the_other_clones_when_one_fails(template: clonal.Template) -> None:
    with pytest.raises(ValueError, match="boom"):
        list(template.map(work.fail_or_wait, ["boom", "wait", "wait"], concurrency=3))


def test_a_map_that_is_dropped_ends_its_clones(template: clonal.Template) -> None:
    results = template.map(work.add, range(100), concurrency=4)
    assert next(results) == 1
    results.close()  # type: ignore[attr-defined]


def test_clones_can_be_awaited(template: clonal.Template) -> None:
    async def main() -> list[int]:
        return await asyncio.gather(*(template.clone(work.add, i) for i in range(5)))

    assert asyncio.run(main()) == [1, 2, 3, 4, 5]


def test_awaiting_raises_the_clones_exception(template: clonal.Template) -> None:
    async def main() -> None:
        await template.clone(work.fail, "awaited")

    with pytest.raises(ValueError, match="awaited"):
        asyncio.run(main())


def test_cancelling_the_wait_leaves_the_clone_running(template: clonal.Template) -> None:
    async def main() -> None:
        with template.clone(work.wait_for_ever) as clone:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(_wait(clone), 0.02)
            assert not clone.done()

    async def _wait(clone: clonal.Clone) -> None:
        await clone

    asyncio.run(main())


def test_two_tasks_and_a_thread_may_wait_for_one_clone(template: clonal.Template) -> None:
    clone = template.clone(work.sleep_and_return, 0.1)
    seen = []
    thread = threading.Thread(target=lambda: seen.append(clone.result()))
    thread.start()

    async def wait() -> object:
        return await clone

    async def main() -> list[object]:
        return await asyncio.gather(wait(), wait())

    assert asyncio.run(main()) == ["slept", "slept"]
    thread.join()
    assert seen == ["slept"]


def test_threads_share_a_template(template: clonal.Template) -> None:
    wrong = []

    def use(number: int) -> None:
        for i in range(10):
            if template.clone(work.add, number, i).result() != number + i:
                wrong.append((number, i))

    threads = [threading.Thread(target=use, args=(n * 1000,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_threads_share_a_clone(template: clonal.Template) -> None:
    clone = template.clone(work.sleep_and_return, 0.05)
    seen: list[object] = []

    def ask(what: str) -> None:
        seen.append(clone.result() if what == "result" else clone.wait() if what == "wait" else clone.pid)

    threads = [threading.Thread(target=ask, args=(w,)) for w in ("result", "wait", "pid", "result")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, seen)) == sorted(["slept", "slept", "0", str(clone.pid)])


def test_handles_kept_in_a_list_hold_no_descriptors(template: clonal.Template) -> None:
    before = len(os.listdir("/proc/self/fd"))
    clones = []
    for i in range(60):
        clones.append(template.clone(work.add, i))
        clones[-1].result()
        clones[-1].wait()
    assert len(os.listdir("/proc/self/fd")) == before
    for i in range(60):
        clones.append(template.clone(work.add, i))
        clones[-1].result()
    time_limit = time.monotonic() + 10
    while len(os.listdir("/proc/self/fd")) > before + 8 and time.monotonic() < time_limit:
        template.clone(work.add, 1).wait()
    assert len(os.listdir("/proc/self/fd")) <= before + 8


@pytest.mark.parametrize(
    "error",
    [clonal.CloneDied(7, 9, oom=True), clonal.CloneTimeout(7, 1.5, killed=True), clonal.TemplateDied(7, 256)],
)
def test_errors_are_picklable(error: clonal.Error) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.data) == (type(error), str(error), error.data)
