"""Template: warm-up and its failures, the caller's surroundings, closing, statistics."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

import clonal
from tests import clone_work as work
from tests.support import run_script

# -- warm-up ---------------------------------------------------------------------------------------


def test_preloaded_modules_are_there_before_a_clone_begins() -> None:
    with clonal.Template(["colorsys"]) as template:
        assert "colorsys" in template.clone(work.modules).result()
        assert "chunk_nobody_preloads" not in template.clone(work.modules).result()


def test_a_setup_may_be_a_function_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "warmer.py").write_text("value = []\ndef warm(): value.append(7)\ndef read(): return value\n")
    with clonal.Template(setup=f"{tmp_path}/warmer.py:warm") as template:
        assert template.clone(work.attribute, "warmer", "value").result() == [7]


def test_a_setup_may_be_a_callable() -> None:
    with clonal.Template(setup=work.warm) as template:
        assert template.clone(work.read_state).result() == ["warm"]


def test_a_setup_may_be_a_closure() -> None:
    text = "by value"
    with clonal.Template(setup=lambda: work.state.append(text)) as template:
        assert template.clone(work.read_state).result() == ["by value"]


@pytest.mark.parametrize("setup", ["no_colon", "os.path"])
def test_a_setup_without_a_function_is_refused(setup: str) -> None:
    with pytest.raises(ValueError, match="module:function"):
        clonal.Template(setup=setup)


def test_preload_as_one_string_is_refused() -> None:
    with pytest.raises(TypeError):
        clonal.Template("json")


def test_a_failing_setup_raises_with_the_users_traceback() -> None:
    with pytest.raises(clonal.SetupFailed, match="no dictionary here") as caught:
        clonal.Template(setup="tests.clone_work:failing_setup")
    assert "in failing_setup" in str(caught.value)
    assert isinstance(caught.value.__cause__, LookupError)


def test_a_failing_preload_is_named() -> None:
    with pytest.raises(clonal.SetupFailed, match="nonexistent_module") as caught:
        clonal.Template(["nonexistent_module"])
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_a_template_that_dies_while_it_warms_up_is_seen() -> None:
    with pytest.raises(clonal.TemplateDied) as caught:
        clonal.Template(setup=work.dying_setup)
    assert caught.value.status == signal.SIGKILL


def test_a_warm_up_that_hangs_is_ended() -> None:
    with pytest.raises(clonal.TemplateDied, match="longer than"):
        clonal.Template(setup=work.hanging_setup, startup_timeout=1.5)


def test_a_setup_that_exits_is_a_failure() -> None:
    with pytest.raises(clonal.SetupFailed) as caught:
        clonal.Template(setup="sys:exit")
    assert isinstance(caught.value.__cause__, SystemExit)


def test_startup_can_be_interrupted() -> None:
    run_script(
        """
        import os, signal, sys, threading, time
        import clonal

        def hang():
            os.kill(os.getppid(), signal.SIGINT)
            signal.pause()

        if __name__ == "__main__":
            try:
                clonal.Template(setup=hang)
            except KeyboardInterrupt:
                print("interrupted")
            else:
                sys.exit("not interrupted")
        """
    )


# -- the caller's surroundings ---------------------------------------------------------------------


def test_functions_and_globals_of_main_are_those_that_setup_filled() -> None:
    run_script(
        """
        import sys
        import clonal

        table = {}
        runs = []
        runs.append(__name__)

        class Point:
            def __init__(self, x):
                self.x = x

        def fill():
            table["answer"] = 42

        def read():
            return table, runs, Point(1), sys.argv[1:], sys.path

        if __name__ == "__main__":
            with clonal.Template(setup=fill) as template:
                found, ran, point, argv, path = template.clone(read).result()
            assert found == {"answer": 42}, found
            assert ran == ["__mp_main__"], ran
            assert isinstance(point, Point) and table == {}
            assert argv == ["one", "two"] and path == sys.path, (argv, path)
        """,
        args=["one", "two"],
    )


def test_a_script_without_the_main_guard_is_told_so() -> None:
    result = run_script(
        """
        import clonal
        clonal.Template().close()
        """,
        check=False,
    )
    assert result.returncode != 0
    assert '__name__ == "__main__"' in result.stderr


def test_a_program_given_by_c_sends_its_functions_by_value() -> None:
    program = """
import clonal
base = 40
def add(x): return base + x
class Pair:
    def __init__(self, a): self.a = a
with clonal.Template() as t:
    print(t.clone(add, 2).result(), t.clone(Pair, 3).result().a, t.clone(lambda p: p.a, Pair(4)).result())
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert run.stdout == "42 3 4\n", run.stderr


def test_environment_and_folder_of_the_template(tmp_path: Path) -> None:
    with clonal.Template(env={"CLONAL_X": "z", "HOME": None}, cwd=tmp_path) as template:
        assert template.clone(work.surroundings, "CLONAL_X").result() == ("z", str(tmp_path))
        assert template.clone(work.surroundings, "HOME").result()[0] is None


# -- hooks -----------------------------------------------------------------------------------------


def test_hooks_run_once_in_the_template_and_first_in_every_clone() -> None:
    with clonal.Template(setup=work.register_hooks) as template:
        for _ in range(2):
            pid, notes = template.clone(work.hook_notes).result()
            assert notes == [("before", template.pid), ("inside", pid)]


def test_a_hook_that_raises_is_the_clones_result() -> None:
    with (
        clonal.Template(setup=work.register_failing_hook) as template,
        pytest.raises(ConnectionError, match="no database"),
    ):
        template.clone(work.add, 1).result()


def test_functions_registered_at_fork_run_in_clones() -> None:
    with clonal.Template(setup=work.register_at_fork) as template:
        pid, notes = template.clone(work.hook_notes).result()
        assert notes == [("before fork", template.pid), ("in child", pid)]


# -- threads ---------------------------------------------------------------------------------------


def test_a_template_whose_warm_up_leaves_threads_is_single_threaded() -> None:
    with pytest.warns(RuntimeWarning, match="sleeper"):
        template = clonal.Template(setup=work.start_thread)
    with template:
        assert template.dropped_threads == ["sleeper"]
        assert len(os.listdir(f"/proc/{template.pid}/task")) == 1
        assert template.clone(work.add, 1).result() == 2
        waiter = int(Path(f"/proc/{template.pid}/stat").read_text().rsplit(")")[1].split()[1])
        assert Path(f"/proc/{waiter}/comm").read_text() == "clonal-waiter\n"
        resident = int(Path(f"/proc/{waiter}/statm").read_text().split()[1])
        assert resident * os.sysconf("SC_PAGE_SIZE") < 1 << 20, "the warm process's memory is still held"


@pytest.mark.parametrize("victim", ["template", "waiter"])
def test_template_and_waiter_die_together(victim: str) -> None:
    with pytest.warns(RuntimeWarning, match="sleeper"):
        template = clonal.Template(setup=work.start_thread)
    with template:
        clone = template.clone(work.wait_for_ever)
        pid = template.pid if victim == "template" else template._process._child
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(clonal.TemplateDied) as caught:
            clone.result(20)
        assert caught.value.status == signal.SIGKILL


# -- ends ------------------------------------------------------------------------------------------


def test_the_death_of_the_template_is_seen_at_once() -> None:
    with clonal.Template() as template:
        clones = [template.clone(work.wait_for_ever) for _ in range(3)]
        pidfds = [os.dup(clone.pidfd) for clone in clones]
        os.kill(template.pid, signal.SIGKILL)
        for clone in clones:
            with pytest.raises(clonal.TemplateDied):
                clone.result(20)
        for pidfd in pidfds:
            assert work.ends(pidfd), "a clone outlived its template"
            os.close(pidfd)
        with pytest.raises(clonal.TemplateDied):
            template.clone(work.add, 1).result()


def test_close_ends_running_clones_and_is_idempotent() -> None:
    template = clonal.Template()
    clone = template.clone(work.wait_for_ever)
    assert clone.pid
    template.close()
    template.close()
    with pytest.raises(clonal.CloneDied, match="closed"):
        clone.result()
    with pytest.raises(clonal.TemplateClosed):
        template.clone(work.add, 1)
    with pytest.raises(clonal.TemplateClosed):
        template.stats()


def test_a_clone_that_has_answered_may_end_although_the_template_is_closed(tmp_path: Path) -> None:
    with clonal.Template() as template:
        clone = template.clone(work.leave_a_thread_writing, str(tmp_path / "notes"))
        assert clone.result() == "returned"
    assert (tmp_path / "notes").read_text() == "thread "
    assert clone.wait() == 0


def test_a_template_that_is_dropped_warns_and_ends() -> None:
    template = clonal.Template()
    pidfd = os.dup(template.pidfd)
    with pytest.warns(ResourceWarning, match="not closed"):
        del template
        gc.collect()
    assert work.ends(pidfd)
    os.close(pidfd)


def test_exit_functions_of_the_warm_up_run_once_in_the_template() -> None:
    with clonal.Template(setup=work.setup_with_exits) as template:
        folders = {template.clone(work.kept_folder).result() for _ in range(3)}
        (folder,) = folders
        assert os.path.isdir(folder)
    assert not os.path.exists(folder)


@pytest.mark.parametrize("standby", [0, 2])
def test_the_death_of_the_client_ends_template_and_clones(standby: int) -> None:
    run_script(
        f"""
        import os, signal, sys
        import clonal
        from tests import clone_work as work

        if __name__ == "__main__":
            reading, writing = os.pipe()
            client = os.fork()
            if client == 0:
                os.close(reading)
                template = clonal.Template(standby={standby})
                clones = [template.clone(work.wait_for_ever) for _ in range(3)]
                os.write(writing, repr([template.pid] + [clone.pid for clone in clones]).encode())
                signal.pause()
            pids = eval(os.read(reading, 1000))
            pidfds = [os.pidfd_open(pid) for pid in pids]
            os.kill(client, signal.SIGKILL)
            os.waitpid(client, 0)
            for pidfd in pidfds:
                assert work.ends(pidfd), pids
        """,
        env={"PYTHONPATH": os.getcwd()},
    )


def test_a_thousand_clones_leave_nothing() -> None:
    with clonal.Template() as template:
        template.clone(work.add, 1).wait()
        here, there = work.count_descriptors(os.getpid()), work.count_descriptors(template.pid)
        memory = work.private_bytes(template.pid)
        for i in range(1000):
            assert template.clone(work.add, i).result() == i + 1
        template.clone(work.add, 1).wait()
        deadline = time.monotonic() + 10
        while template.stats().running and time.monotonic() < deadline:
            template.clone(work.add, 1).wait()
        assert template.stats().running == 0
        assert work.count_descriptors(os.getpid()) <= here + 2
        assert work.count_descriptors(template.pid) <= there
        assert work.private_bytes(template.pid) < memory + (1 << 20)
        children = Path(f"/proc/{template.pid}/task/{template.pid}/children").read_text()
        assert children == "", "zombies"


# -- the wrong process -----------------------------------------------------------------------------


def test_a_template_used_in_a_forked_process_is_an_error_and_its_sockets_are_closed() -> None:
    run_script(
        """
        import os
        import clonal
        from tests import clone_work as work

        if __name__ == "__main__":
            with clonal.Template() as template, template.clone(work.wait_for_ever) as clone:
                held = {template._process.control, clone._fd, clone.pidfd, template.pidfd}
                pid = os.fork()
                if pid == 0:
                    for call in (lambda: template.clone(work.add, 1), clone.result, clone.kill):
                        try:
                            call()
                        except clonal.WrongProcess as error:
                            assert error.owner == os.getppid()
                        else:
                            os._exit(1)
                    template.close()
                    os._exit(2 if held & {int(fd) for fd in os.listdir("/proc/self/fd")} - {3} else 0)
                status = os.waitpid(pid, 0)[1]
                assert status == 0, status
                assert template.clone(work.add, 1).result() == 2
        """,
        env={"PYTHONPATH": os.getcwd()},
    )


# -- what it tells ---------------------------------------------------------------------------------


def test_stats_count_clones_failures_and_what_clones_import() -> None:
    with clonal.Template(["tests.clone_work"]) as template:
        for _ in range(3):
            template.clone(work.import_late, "colorsys").wait()
        template.clone(work.fail, "x").exception()
        stats = template.stats()
    assert (stats.clones, stats.failed) == (4, 1)
    assert stats.start_p50 is not None and stats.result_p50 is not None
    assert stats.start_p50 > 0 and 0 < stats.result_p50 <= (stats.result_p99 or 0)
    assert [(row.name, row.clones) for row in stats.imports] == [("colorsys", 3)]
    assert "colorsys" in str(stats)
    assert stats.to_json()["clones"] == 4


def test_the_loop_takes_at_most_four_copy_faults_for_each_fork() -> None:
    with clonal.Template() as template:
        for _ in range(50):
            template.clone(work.add, 1).wait()
        stats = template.stats()
    assert stats.faults_per_fork is not None and stats.faults_per_fork <= 4, stats


def test_the_freeze_report_is_there() -> None:
    with clonal.Template(immortal=False) as template:
        assert template.report.bytes_imaged > 1 << 20
        assert template.report.immortal_objects == 0


def test_hazards_are_shown_once() -> None:
    with pytest.warns(RuntimeWarning, match="hazards") as caught:
        template = clonal.Template(setup=work.open_a_connection)
    template.close()
    assert len(caught) == 1
    assert any(hazard.severity == "danger" for hazard in template.hazards)


# -- stale code ------------------------------------------------------------------------------------


@pytest.fixture
def changing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module whose file the test changes."""
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "changing_module.py"
    path.write_text("value = 1\n")
    return path


def test_changed_code_is_warned_of_once(changing: Path) -> None:
    with clonal.Template(["changing_module"]) as template:
        changing.write_text("value = 22\n")
        with pytest.warns(clonal.StaleCodeWarning, match="changing_module.py"):
            work.until(
                lambda: template.clone(work.attribute, "changing_module", "value").result() and False, 0.5
            )
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert template.clone(work.attribute, "changing_module", "value").result() == 1


def test_changed_code_rebuilds_the_template_and_running_clones_go_on(changing: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    with clonal.Template(["changing_module"], stale="rebuild") as template:
        first = template.pid
        running = template.clone(work.wait_for_fifo, str(tmp_path / "go"))
        changing.write_text("value = 22\n")
        work.until(lambda: template.clone(work.attribute, "changing_module", "value").result() == 22, 20)
        assert template.pid != first
        os.close(os.open(tmp_path / "go", os.O_WRONLY))
        assert running.result() == "went"


def test_changed_code_may_be_ignored(changing: Path) -> None:
    with clonal.Template(["changing_module"], stale="ignore") as template:
        changing.write_text("value = 22\n")
        time.sleep(0)
        assert template.clone(work.attribute, "changing_module", "value").result() == 1


# -- refusals --------------------------------------------------------------------------------------


def test_a_clone_without_room_is_refused_with_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    with clonal.Template() as template:
        monkeypatch.setattr(template._headroom, "check", _refuse)
        with pytest.raises(clonal.CloneRefused) as caught:
            template.clone(work.add, 1)
    assert caught.value.limit == "tasks"


def _refuse(**_: int) -> None:
    raise clonal.CloneRefused("tasks", 1, 0, "tasks")


def test_a_client_without_descriptors_is_refused() -> None:
    run_script(
        """
        import os, resource
        import clonal
        from tests import clone_work as work

        if __name__ == "__main__":
            with clonal.Template() as template:
                template.clone(work.add, 1).result()
                top = max(map(int, os.listdir("/proc/self/fd")))
                most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
                resource.setrlimit(resource.RLIMIT_NOFILE, (top + 3, most))
                clones = []
                try:
                    for _ in range(20):
                        clones.append(template.clone(work.wait_for_ever))
                except clonal.CloneRefused as error:
                    print(error)
                else:
                    raise SystemExit("not refused")
                for clone in clones:
                    clone.kill()
        """,
        env={"PYTHONPATH": os.getcwd()},
    )


def test_a_fork_that_the_kernel_refuses_is_reported_and_the_template_goes_on() -> None:
    run_script(
        """
        import resource
        import clonal

        def noop():
            return 1

        if __name__ == "__main__":
            with clonal.Template() as template:
                template._headroom.check = lambda **_: None
                before = resource.prlimit(template.pid, resource.RLIMIT_NPROC)
                resource.prlimit(template.pid, resource.RLIMIT_NPROC, (1, before[1]))
                try:
                    template.clone(noop).result()
                except clonal.CloneRefused as error:
                    assert "EAGAIN" in str(error), error
                else:
                    raise SystemExit("not refused")
                resource.prlimit(template.pid, resource.RLIMIT_NPROC, before)
                assert template.clone(noop).result() == 1
        """,
        user="nobody",
    )


def test_more_clones_than_the_programs_descriptors_may_run_at_once() -> None:
    """The template raises its own limit; clones have the program's."""
    run_script(
        """
        import resource
        import clonal
        from tests import clone_work as work

        def limited():
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (24, hard))

        if __name__ == "__main__":
            with clonal.Template(setup=limited) as template:
                clones = [template.clone(work.wait_for_ever) for _ in range(30)]
                assert template.clone(work.file_limit).result()[0] == 24
                for clone in clones:
                    clone.kill()
                    clone.wait()
        """,
        env={"PYTHONPATH": os.getcwd()},
    )


# -- users and interpreters ------------------------------------------------------------------------


def test_an_ordinary_user_may_do_all_this(user: str | None) -> None:
    run_script(
        """
        import os
        import clonal

        def who():
            return os.geteuid()

        if __name__ == "__main__":
            with clonal.Template(standby=1) as template:
                for _ in range(5):
                    assert template.clone(who).result() == os.geteuid()
                assert template.report.bytes_imaged > 0
        """,
        user=user,
    )
