"""The page of `clonal explain --html` in a real browser: keys and buttons step it, and it loads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from clonal.explain import TOPICS, tell
from clonal.explain.page import page
from tests.browser import Browser, browser, chromium


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Browser, Path]]:
    program = chromium()
    if program is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    path = tmp_path_factory.mktemp("explain") / "page.html"
    path.write_text(page([tell(TOPICS[name], None, "a test") for name in ("write", "vfork")]), "utf-8")
    with browser(program) as opened:
        yield opened, path


VISIBLE = (
    "[...document.querySelectorAll('.step')].filter((each) => each.offsetParent !== null)"
    ".map((each) => each.parentElement.id + '/' + each.dataset.step).join()"
)


def test_it_is_stepped_by_keys(shown: tuple[Browser, Path]) -> None:
    tab, path = shown
    tab.open(path)
    seen = [tab.ask(VISIBLE)]
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "End", "ArrowRight", "Home", "ArrowDown", "ArrowUp"):
        tab.press(key)
        seen.append(tab.ask(VISIBLE))
    last = f"write/{len(TOPICS['write'].steps)}"
    assert seen == ["write/1", "write/2", "write/3", "write/2", last, last, "write/1", "vfork/1", "write/1"]
    assert not tab.problems


def test_it_is_stepped_by_buttons_which_end_at_the_ends(shown: tuple[Browser, Path]) -> None:
    tab, path = shown
    tab.open(path, "?buttons#write/1")
    assert tab.ask("document.querySelector('#back').disabled")
    tab.click("#next")
    assert (tab.ask(VISIBLE), tab.ask("document.querySelector('#at').textContent")) == ("write/2", "2 / 6")
    tab.click("#back")
    assert tab.ask(VISIBLE) == "write/1"
    tab.press("End")
    assert tab.ask("document.querySelector('#next').disabled")
    assert tab.ask("document.querySelector('#write .lesson').offsetParent !== null")


def test_its_address_names_the_step(shown: tuple[Browser, Path]) -> None:
    tab, path = shown
    tab.open(path, "?address#vfork/4")
    assert tab.ask(VISIBLE) == "vfork/4"
    tab.press("ArrowRight")
    assert tab.ask("location.hash") == "#vfork/5"


def test_a_step_is_drawn_with_its_tables_frames_and_arrows(shown: tuple[Browser, Path]) -> None:
    tab, path = shown
    tab.open(path, "?drawn#write/2")
    count = "document.querySelectorAll('.step.on {}').length"
    assert tab.ask(count.format(".entry")) == 8
    assert tab.ask(count.format(".entry.changed")) == 1
    assert tab.ask(count.format(".frame")) == 5
    assert tab.ask(count.format(".arrow:not(.tip)")) == 8
    text = tab.ask("document.querySelector('.step.on svg').textContent")
    assert "parent" in text and "child" in text
    assert tab.ask("[...document.querySelectorAll('.step.on svg')].every((each) => each.clientHeight > 100)")


def test_it_loads_nothing_and_no_script_fails(shown: tuple[Browser, Path]) -> None:
    tab, path = shown
    tab.open(path, "?loads")
    tab.press("ArrowRight")
    assert not tab.problems
    assert all(url.startswith(path.as_uri()) for url in tab.requested)
