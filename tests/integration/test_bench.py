"""`clonal bench`: what it prints, its files, what it says where something is missing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clonal.bench.results import MEASURES, SCHEMA, TABLE
from clonal.bench.strategies import NAMES
from tests.support import run_script

COMMAND = "import sys; from clonal.cli.main import main; sys.exit(main())"
FEW = "fork,image,image-immortal,thread,floor,article"


def bench(*arguments: str, path: str | None = None, disable: str = "") -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({} if path is None else {"PATH": path}) | {"CLONAL_DISABLE": disable}
    return subprocess.run(
        [sys.executable, "-c", COMMAND, "bench", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        env=environment,
        check=False,
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """One quick run of a few strategies: its JSON, and the folder with its picture and page."""
    folder = tmp_path_factory.mktemp("bench")
    files = ("--plot", str(folder / "bench.png"), "--html", str(folder / "bench.html"))
    done = bench("--quick", "--json", "--strategies", FEW, *files)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), folder


def row(results: dict[str, Any], strategy: str) -> dict[str, Any]:
    return next(row for row in results["rows"] if row["strategy"] == strategy)


def test_the_json_says_where_its_figures_come_from(quick: tuple[dict[str, Any], Path]) -> None:
    results, _ = quick
    assert results["schema"] == SCHEMA
    for fact in ("processor", "kernel", "python", "thp", "cores", "memory"):
        assert results["machine"][fact], fact
    assert all(row["thp"] for row in results["rows"])


def test_a_forked_child_has_every_measure(quick: tuple[dict[str, Any], Path]) -> None:
    measures = row(quick[0], "fork")["measures"]
    assert set(measures) == set(MEASURES)
    for name, measure in measures.items():
        assert 0 < measure["q1"] <= measure["median"] <= measure["q3"], name
        assert measure["count"] >= 2, name


def test_no_process_holds_no_private_memory(quick: tuple[dict[str, Any], Path]) -> None:
    assert set(row(quick[0], "thread")["measures"]) >= set(TABLE) - {"private"}
    assert "private" not in row(quick[0], "thread")["measures"]


def test_an_eager_copy_holds_its_whole_heap_alone() -> None:
    done = bench("--quick", "--json", "--strategies", "eager,fork")
    results = json.loads(done.stdout)
    eager, fork = row(results, "eager"), row(results, "fork")
    assert eager["measures"]["private"]["median"] >= eager["size"]
    assert fork["measures"]["private"]["median"] < eager["size"]


def test_the_floor_is_below_every_fork_of_python(quick: tuple[dict[str, Any], Path]) -> None:
    floor = row(quick[0], "floor-fork")["measures"]["stall"]["minimum"]
    assert floor < row(quick[0], "fork")["measures"]["stall"]["minimum"]


def test_the_articles_script_forks_but_never_by_its_function(quick: tuple[dict[str, Any], Path]) -> None:
    article = quick[0]["article"]
    assert article["forks"] >= 10
    assert not any(program.startswith("bash -c") for program in article["by"])


def test_every_mitigation_of_the_storm_is_measured(quick: tuple[dict[str, Any], Path]) -> None:
    found = {storm["mitigation"] for storm in quick[0]["storms"] if storm["strategy"] == "fork"}
    assert found == {"none", "pretouch", "populate", "standby", "shared", "vfork"}
    assert all(storm["total"]["median"] >= storm["slowest"]["median"] for storm in quick[0]["storms"])


def test_the_break_even_compares_at_equal_shares(quick: tuple[dict[str, Any], Path]) -> None:
    for even in quick[0]["break_even"]:
        assert len(even["shares"]) == len(even["plain"]) == len(even["mine"])
        assert even["share"] is None or 0 <= even["share"] <= 1
    assert {even["strategy"] for even in quick[0]["break_even"]} == {"image", "image-immortal"}


def test_the_page_loads_nothing(quick: tuple[dict[str, Any], Path]) -> None:
    page = (quick[1] / "bench.html").read_text("utf-8")
    assert not re.search(r"(src|href|url)\s*[=(]", page)
    assert "//" not in re.sub(r"<script type=.application/json.*</script>", "", page, flags=re.DOTALL)
    assert "os.fork" in page and "Linux" in page


def test_the_data_in_the_page_is_that_of_the_json(quick: tuple[dict[str, Any], Path]) -> None:
    page = (quick[1] / "bench.html").read_text("utf-8")
    embedded = re.search(r'id="results">(.*)</script>', page)
    assert embedded is not None
    assert json.loads(embedded[1]) == quick[0]


def test_the_plot_is_a_picture(quick: tuple[dict[str, Any], Path]) -> None:
    assert (quick[1] / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_names_strategies_and_machine() -> None:
    done = bench("--quick", "--strategies", "task,article")
    assert done.returncode == 0, done.stderr
    assert "asyncio task" in done.stdout and "Machine: " in done.stdout and "clones/s" in done.stdout


def test_without_a_compiler_what_needs_one_is_skipped_with_the_reason(tmp_path: Path) -> None:
    """GIVEN a PATH without compiler, bash or strace THEN the rest runs and says what is missing."""
    done = bench("--quick", "--strategies", "task,posix-spawn,floor,article", path=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "Skipped: floor: no C compiler" in done.stdout
    assert "Skipped: posix-spawn: no minimal C program" in done.stdout
    assert "The article's script: skipped, no bash to run it" in done.stdout
    assert "asyncio task" in done.stdout


def test_the_list_of_strategies_names_all() -> None:
    listed = bench("--strategies", "list").stdout
    assert [line.split()[0] for line in listed.splitlines()] == list(NAMES)


def test_root_and_an_ordinary_user_can_measure(user: str | None) -> None:
    source = """
    import json, sys
    from clonal.cli.main import main

    if __name__ == "__main__":
        sys.exit(main(["bench", "--quick", "--json", "--strategies", "fork,image,clone"]))
    """
    results = json.loads(run_script(source, user=user).stdout)
    assert results["skipped"] == []
    for strategy in ("fork", "image", "clone"):
        assert row(results, strategy)["measures"]["private"]["median"] > 0


def test_what_a_freeze_had_to_do_without_is_printed() -> None:
    """GIVEN no memfd THEN no row passes silently for an image."""
    done = bench("--quick", "--strategies", "image", disable="memfd")
    assert done.returncode == 0, done.stderr
    assert "Degraded: image: " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--sizes", "many"], "'many' is no size"),
        (["--sizes", "1K"], "too small"),
        (["--sizes", "99999G"], "give smaller sizes"),
        (["--strategies", "teleport"], "no strategy teleport"),
        (["--rounds", "0"], "at least 1"),
        (["--rounds", "few"], "invalid int"),
        (["--sizes", "1M", "--plot", "x.jpg"], "ends in .png"),
        (["--sizes", "1M", "--html", "/no/such/folder/x.html"], "no folder"),
    ],
)
def test_a_wrong_command_line_is_answered_in_one_line(arguments: list[str], says: str) -> None:
    done = bench(*arguments)
    assert done.returncode != 0
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
