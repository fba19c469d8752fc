"""`clonal explain`: every topic on the model and on this kernel, which show the same."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from clonal.explain import TOPICS, tell
from clonal.explain.picture import Picture
from clonal.kernel import cgroup
from clonal.scenario import KernelRunner
from tests.support import IS_ROOT, run_script

pytestmark = pytest.mark.newest

GROUPS = IS_ROOT and bool(cgroup.groups("memory"))  # whether small memory cgroups can be made

CLONAL = [sys.executable, "-m", "clonal.cli.main", "explain"]


def explain(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CLONAL, *arguments], capture_output=True, text=True, timeout=60, input=given)


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelRunner]:
    with KernelRunner() as runner:
        yield runner


@pytest.mark.parametrize("name", TOPICS)
def test_the_kernel_shows_what_the_topic_says(name: str, kernel: KernelRunner) -> None:
    if lacking := TOPICS[name].lacking():
        pytest.skip(lacking)
    told = tell(TOPICS[name], kernel)
    assert not told.without_kernel
    apart = False
    for moment in told.moments:
        apart = apart or bool(moment.tell.apart) or (moment.tell.press and not GROUPS)
        assert moment.differences == ()
        assert (moment.kernel is None) == apart
        if moment.model and moment.kernel and kernel.frames_shown:
            assert frames(moment.model.picture) == frames(moment.kernel.picture)
        assert len(moment.notes) >= bool(moment.tell.probe)


def frames(picture: Picture) -> list[list[tuple[int, str, int]]]:
    """Page by page: the kernel shows no write permissions, so its cells may be longer."""
    return [
        [
            (page, cell.kind, cell.frame and cell.frame + (page - cell.first) * (cell.kind != "zero"))
            for cell in row.cells
            for page in range(cell.first, cell.first + cell.count)
        ]
        for row in picture.rows
    ]


@pytest.mark.skipif(not IS_ROOT, reason="pytest itself runs without privilege: the tests above show it")
def test_without_privilege_all_but_the_frames_is_shown() -> None:
    run_script(
        """
        from clonal.explain import TOPICS, tell
        from clonal.scenario import KernelRunner

        with KernelRunner() as kernel:
            assert not kernel.frames_shown
            told = tell(TOPICS["write"], kernel)
        assert not told.without_kernel, told.without_kernel
        assert not any(moment.differences for moment in told.moments)
        assert [cell.frames for cell in told.moments[0].kernel.picture.rows[0].cells] == ["a"] * 4
        """,
        user="nobody",
    )


@pytest.mark.skipif(not GROUPS, reason="no memory cgroup can be made here")
def test_memory_is_run_out_in_a_group_that_is_gone_afterwards(kernel: KernelRunner) -> None:
    above = Path(cgroup.groups("memory")[0].path)
    before = set(above.glob("clonal-*"))
    killed = tell(TOPICS["oom"], kernel).moments[3]
    assert killed.kernel is not None
    assert killed.kernel.counters["result"] == "writer killed"
    written = [int(count) for count in re.findall(r"\d+(?= pages by|(?= on this))", killed.notes[0])]
    assert len(written) == 2 and abs(written[0] - written[1]) <= 192
    assert set(above.glob("clonal-*")) <= before


@pytest.mark.skipif(not IS_ROOT, reason="pytest itself runs without privilege: the tests above show it")
def test_without_privilege_nothing_is_run_out_of_and_one_line_says_so() -> None:
    run_script(
        """
        from clonal.explain import TOPICS, tell
        from clonal.scenario import KernelRunner

        with KernelRunner() as kernel:
            told = tell(TOPICS["oom"], kernel)
        assert [moment.kernel is None for moment in told.moments] == [False] * 3 + [True] * 2
        assert told.moments[3].notes[0].startswith("from here on the model alone: memory is run out only in ")
        assert sum("model alone" in note for moment in told.moments for note in moment.notes) == 1
        """,
        user="nobody",
    )


def test_where_the_kernel_cannot_play_the_model_does_and_the_reason_is_kept() -> None:
    class Broken(KernelRunner):
        def run(self, step: object) -> None:  # type: ignore[override]
            raise OSError(25, "no PAGEMAP_SCAN")

    with Broken() as runner:
        told = tell(TOPICS["fork"], runner)
    assert told.without_kernel == "[Errno 25] no PAGEMAP_SCAN"
    assert all(moment.model and not moment.kernel for moment in told.moments)


def test_a_topic_that_the_kernel_is_not_set_up_for_is_told_on_the_model(kernel: KernelRunner) -> None:
    told = tell(replace(TOPICS["thp"], lacking=lambda: "it is set to never"), kernel)
    assert told.without_kernel == "it is set to never"
    assert all(moment.model and not moment.kernel for moment in told.moments)


def test_without_a_topic_it_lists_them() -> None:
    result = explain()
    assert result.returncode == 0
    assert [line.split()[0] for line in result.stdout.splitlines()[: len(TOPICS)]] == list(TOPICS)
    assert [each["topic"] for each in json.loads(explain("--json").stdout)] == list(TOPICS)


def test_a_topic_is_told_with_both_machines() -> None:
    result = explain("write")
    assert result.returncode == 0, result.stderr
    assert "the model" in result.stdout
    assert f"Linux {os.uname().release.split('-')[0]}, just now" in result.stdout
    assert ("this kernel tells only root" in result.stdout) == (not IS_ROOT)
    assert result.stdout.count("the kernel shows the same, page by page") == len(TOPICS["write"].steps)


def test_json_has_pictures_and_counters_of_both() -> None:
    told = json.loads(explain("last-sharer", "--json").stdout)
    reuse = told["steps"][3]
    assert reuse["step"] == ["parent: write heap 0"]
    assert reuse["model"]["counters"]["reused"] == 1
    assert reuse["kernel"]["counters"]["minor faults"] == 1
    assert reuse["differences"] == []


def test_pause_waits_after_each_step_and_ends_at_q() -> None:
    result = explain("write", "--model", "--pause", given="\n\nq\n")
    assert result.returncode == 0
    assert "3/6" in result.stdout and "4/6" not in result.stdout
    assert result.stderr.count("enter: next step") == 3


def test_pause_goes_back_at_b() -> None:
    result = explain("write", "--model", "--pause", given="b\n\nb\nq\n")
    steps = re.findall(r"^(\d)/6 ", result.stdout, re.MULTILINE)
    assert steps == ["1", "2", "3", "2"]  # there is nothing before the first


def test_without_the_kernel_the_reason_is_printed() -> None:
    assert "without the kernel: --model was given" in explain("fork", "--model").stdout


def test_the_page_of_all_topics_needs_nothing_else(tmp_path: Path) -> None:
    result = explain("--model", "--html", str(tmp_path / "all.html"))
    assert (result.returncode, result.stdout) == (0, "")
    page = (tmp_path / "all.html").read_text("utf-8")
    assert all(f'<section class="story" id="{name}">' in page for name in TOPICS)
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["forc"], "no topic 'forc'; did you mean fork?"),
        (["FORK"], "no topic 'FORK'; did you mean fork?"),
        (["zero-pages"], "no topic 'zero-pages'; did you mean zero-page?"),
        (["kettle"], "no topic 'kettle'; there are fork, write, last-sharer"),
        (["fork", "write"], "unrecognized arguments: write"),
        (["--pause"], "--pause steps through a topic on the terminal"),
        (["fork", "--html", "page.txt"], "page.txt: give a file whose name ends in .html"),
        (["fork", "--html", "/nowhere/page.html"], "there is no folder /nowhere to write to"),
        (["fork", "--html", "/dev/null/page.html"], "there is no folder /dev/null to write to"),
        (["fork", "--html", "/proc/page.html"], "/proc/page.html: No such file or directory"),
        (["fork", "--loud"], "unrecognized arguments: --loud"),
    ],
)
def test_bad_input_gives_one_line(arguments: list[str], says: str) -> None:
    result = explain(*arguments)
    assert result.returncode == 2
    assert says in result.stderr
    assert result.stderr.count("\n") == 1 and not result.stdout


def test_a_folder_in_place_of_the_page_gives_one_line(tmp_path: Path) -> None:
    (tmp_path / "page.html").mkdir()
    result = explain("fork", "--html", str(tmp_path / "page.html"))
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "page.html: is a folder; give a file" in result.stderr


def shell(line: str) -> subprocess.CompletedProcess[str]:
    command = f"{shlex.join(CLONAL)} {line}"
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("line", "status", "says"),
    [
        ("fork >&-", 2, "clonal: standard output is closed: there is nowhere to print to\n"),
        ("fork >/dev/full", 1, "clonal: standard output: No space left on device\n"),
        ("fork --json >/dev/full", 1, "clonal: standard output: No space left on device\n"),
        ("--help >/dev/full", 1, "clonal: standard output: No space left on device\n"),
        ("storm --json | head -c 1", 0, ""),
        ("fork --pause <&- >/dev/null", 0, "     enter: next step, q: end \n"),
    ],
)
def test_output_and_input_that_are_closed_or_full_give_one_line(line: str, status: int, says: str) -> None:
    result = shell(line)
    assert (result.returncode, result.stderr) == (status, says)


def test_a_terminal_without_the_letters_shows_the_rest() -> None:
    command = [*CLONAL, "write"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert (result.returncode, result.stderr) == (0, "")
    assert "parent heap |c 1*|c 2*|" in result.stdout


@pytest.mark.skipif(not IS_ROOT, reason="pytest itself runs without privilege: the tests above show it")
def test_without_privilege_the_verb_tells_its_story_and_what_it_may_not_write() -> None:
    run_script(
        """
        import contextlib, io
        from clonal.cli.main import main

        def told(*words):
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = main(["explain", *words])
            return status, out.getvalue(), err.getvalue()

        status, out, err = told("write")
        assert (status, err) == (0, ""), err
        assert "the kernel shows the same, page by page" in out
        assert "a: anonymous, f: page cache; this kernel tells only root" in out
        status, out, err = told("oom")
        assert (status, err) == (0, ""), err
        assert "none can be made (Permission denied)" in " ".join(out.split())
        assert told("write", "--html", "/etc/page.html") == (
            2, "", "clonal: /etc/page.html: this user may not write to /etc\\n"
        )
        """,
        user="nobody",
    )
