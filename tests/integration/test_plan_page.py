"""The page of `clonal plan --html` in a real browser: what it says, its legend, narrow and dark; the PNG."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clonal.cli.main import main
from tests.browser import Browser, browser, chromium

pytestmark = pytest.mark.newest

ASKED = ["--heap", "50M", "--code", "20M", "--ram", "4G", "--cores", "2", "--written", "5%"]
FLEETS = {
    "fits": ["--clones", "100"],
    "ends": ["--clones", "100", "--limit", "200M"],
    "lives": ["--clones", "100", "--lifetime", "1s", "--rate", "1M"],
    "one": ["--sweep", "clones=10,100,1000"],
    "two": ["--sweep", "clones=10,100", "--sweep", "written=1%,5%,50%"],
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("plan")
    for name, options in FLEETS.items():
        with contextlib.redirect_stdout(io.StringIO()):
            assert main(["plan", *ASKED, *options, "--html", str(folder / f"{name}.html")]) == 0
    return {name: folder / f"{name}.html" for name in FLEETS}


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    program = chromium()
    if program is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    with browser(program) as opened:
        yield opened


def resize(tab: Browser, width: int) -> None:
    tab.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)


def seen(tab: Browser, css: str) -> int:
    """How many of the elements have a place on the page."""
    found = tab.ask(
        f"[...document.querySelectorAll({css!r})].filter((each) => each.getClientRects().length > 0).length"
    )
    return int(found)


def text(tab: Browser, css: str) -> str:
    return str(tab.ask(f"[...document.querySelectorAll({css!r})].map((each) => each.textContent).join('|')"))


def test_it_answers_in_large_figures(tab: Browser, pages: dict[str, Path]) -> None:
    resize(tab, 1280)
    tab.open(pages["fits"])
    assert text(tab, ".facts dt") == "Server|Fleet|Machine|Costs"
    assert "100 clones fit" in text(tab, ".verdict") and seen(tab, ".verdict.bad") == 0
    assert seen(tab, ".figure") == 6
    data = json.loads(text(tab, "#results"))
    assert f"{data['copied_pages']:,}" in text(tab, ".figure .value")
    assert data["copied_pages"] == 64_000 and data["advice"]


def test_a_fleet_that_does_not_fit_is_marked_where_memory_ends(tab: Browser, pages: dict[str, Path]) -> None:
    resize(tab, 1280)
    tab.open(pages["ends"])
    assert seen(tab, ".verdict.bad") == 2
    assert "the OOM killer takes" in text(tab, ".verdict")
    assert "memory cgroup limit: 200 MiB" in text(tab, "svg.wide text.limit")
    assert seen(tab, "svg.wide .oom.l1") == 1 and seen(tab, "svg.wide .l1 .after") == 1


def test_the_legend_hides_and_shows_a_strategy(tab: Browser, pages: dict[str, Path]) -> None:
    resize(tab, 1280)
    tab.open(pages["ends"])
    lines = "svg.wide .line.l{}:not(.oom)"
    assert [seen(tab, lines.format(number)) for number in range(7)] == [0, 1, 0, 0, 0, 1, 0]
    tab.click(".key:nth-child(2)")
    tab.click(".key:nth-child(4)")
    assert [seen(tab, lines.format(number)) for number in range(7)] == [0, 0, 0, 1, 0, 1, 0]
    assert seen(tab, "svg.wide .oom.l1") == 0
    tab.click(".key:nth-child(2)")
    assert seen(tab, lines.format(1)) == 1


def test_the_worst_of_random_fleets_is_a_band(tab: Browser, pages: dict[str, Path]) -> None:
    resize(tab, 1280)
    tab.open(pages["lives"])
    assert seen(tab, "svg.wide .band") == 2


@pytest.mark.parametrize("width", [400, 700, 1400])
def test_it_fits_any_window(tab: Browser, pages: dict[str, Path], width: int) -> None:
    resize(tab, width)
    for name in ("ends", "two"):
        tab.open(pages[name])
        assert tab.ask("document.documentElement.scrollWidth") <= width
    tab.open(pages["ends"])
    assert (seen(tab, "svg.wide"), seen(tab, "svg.narrow")) == ((0, 1) if width < 736 else (1, 0))


def test_it_is_dark_where_that_is_preferred(tab: Browser, pages: dict[str, Path]) -> None:
    tab.open(pages["fits"])
    found = []
    for mode in ("light", "dark"):
        tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": mode}])
        found.append(
            tab.ask(
                "[getComputedStyle(document.body).backgroundColor,"
                "getComputedStyle(document.querySelector('svg .curve')).stroke]"
            )
        )
    (light, line), (dark, pale) = found
    assert light == "rgb(255, 255, 255)" and dark == "rgb(22, 25, 30)" and line != pale


def test_a_sweep_draws_what_it_changes(tab: Browser, pages: dict[str, Path]) -> None:
    resize(tab, 1280)
    tab.open(pages["one"])
    assert text(tab, ".legend .key") == "cow (os.fork)|image"
    assert "The fleet's memory, p50" in text(tab, ".side h2")
    assert "One more clone takes" in text(tab, ".note")
    assert seen(tab, ".side svg .l0 circle") == 3 * seen(tab, ".side svg")


def test_a_sweep_of_two_draws_a_line_for_each_value_of_the_other(
    tab: Browser, pages: dict[str, Path]
) -> None:
    resize(tab, 1280)
    tab.open(pages["two"])
    assert text(tab, ".legend .key").startswith("clones 10, cow (os.fork)|clones 10, image|clones 100, cow")
    panels = seen(tab, ".side svg")
    tab.click(".key:nth-child(1)")
    assert seen(tab, ".side svg .line .curve") == 3 * panels
    assert text(tab, ".side svg text").count("50%") == panels


def test_it_loads_nothing_and_runs_nothing(tab: Browser, pages: dict[str, Path]) -> None:
    for path in pages.values():
        tab.requested.clear()
        tab.open(path)
        assert all(url == path.as_uri() for url in tab.requested)
        assert tab.ask("[...document.scripts].every((each) => each.type === 'application/json')")
    assert not tab.problems


@pytest.mark.parametrize("fleet", ["ends", "two"])
def test_the_same_is_drawn_as_a_png(tmp_path: Path, fleet: str) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "plan.png"
    command = [sys.executable, "-m", "clonal.cli.main", "plan", *ASKED, *FLEETS[fleet], "--plot", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n" and int.from_bytes(head[16:20]) > 1500
    assert "os.fork" in done.stdout
