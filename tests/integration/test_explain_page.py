"""The page of `clonal explain --html` in a real browser: keys and buttons step it, and it loads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from clonal.explain import TOPICS, tell
from clonal.explain.page import page
from tests.browser import Browser, browser, chromium

pytestmark = pytest.mark.newest


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Browser, Path]]:
    program = chromium()
    if program is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    path = tmp_path_factory.mktemp("explain") / "page.html"
    path.write_text(page([tell(TOPICS[name], None, "a test") for name in ("write", "vfork")]), "utf-8")
    with browser(program) as opened:
        opened.size(1280, 800)
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


def test_a_click_on_a_topic_or_on_a_dot_goes_there(shown: tuple[Browser, Path]) -> None:
    tab, path = shown
    tab.open(path, "?clicks#write/3")
    tab.click("#dots button:nth-child(5)")
    assert tab.ask(VISIBLE) == "write/5"
    tab.click(".topics a[href='#vfork/1']")
    assert tab.ask(VISIBLE) == "vfork/1"
    assert tab.ask("document.querySelector('.topics [aria-current]').textContent") == "vfork"
    tab.press("ArrowRight")
    assert tab.ask(VISIBLE) == "vfork/2"


@pytest.mark.parametrize("width", [1280, 800, 400])
def test_it_fits_every_width(shown: tuple[Browser, Path], width: int) -> None:
    tab, path = shown
    tab.size(width, 800)
    tab.open(path, f"?wide{width}#write/2")
    assert tab.ask("document.documentElement.scrollWidth <= innerWidth")
    tab.ask("window.box = document.querySelector('#next').getBoundingClientRect()")
    assert tab.ask("box.left >= 0 && box.right <= innerWidth && box.top >= 0 && box.bottom <= innerHeight")
    tab.size(1280, 800)


def test_it_is_dark_where_the_reader_s_system_is(shown: tuple[Browser, Path]) -> None:
    tab, path = shown
    tab.open(path, "?dark")
    paper = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every((part) => part > 127)"
    seen = []
    for scheme in ("light", "dark"):
        tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        seen.append(tab.ask(paper))
    assert seen == [True, False]


def test_a_page_of_one_topic_has_no_list_of_them(shown: tuple[Browser, Path]) -> None:
    tab, path = shown
    one = path.with_name("one.html")
    one.write_text(page([tell(TOPICS["write"], None, "a test")]), "utf-8")
    tab.open(one)
    assert tab.ask("document.querySelector('.topics') === null && document.querySelector('#topic').hidden")
    tab.press("ArrowRight")
    assert tab.ask(VISIBLE) == "write/2" and not tab.problems


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
    assert all(url.startswith(path.parent.as_uri()) for url in tab.requested)
