"""The flame graph in a real browser: zoomed, searched, walked with keys; it loads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from clonal.observe.analyse import load
from clonal.observe.report.count import tally
from clonal.observe.report.flame import page
from tests.browser import Browser, browser, chromium
from tests.recordings import Recorded, shop

pytestmark = pytest.mark.newest

Shown = tuple[Browser, Path]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    program = chromium()
    if program is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    folder = tmp_path_factory.mktemp("flame")
    path = folder / "flame.html"
    path.write_text(page(tally(load(shop(folder)))), "utf-8")
    with browser(program) as opened:
        opened.size(1280, 800)
        yield opened, path


def label(name: str) -> str:
    return f"document.querySelector('[aria-label^=\"{name}\"]')"


def width(tab: Browser, name: str) -> int:
    return round(tab.ask(f"{label(name)}?.getBoundingClientRect().width ?? 0"))


def search(tab: Browser, words: str) -> str:
    """Types into the search; what is said to be found."""
    tab.press("/")
    tab.call("Input.insertText", text=words)
    found: str = tab.ask("document.querySelector('#found').textContent")
    return found


LABEL = ".getAttribute('aria-label')"
MATCHES = "[...document.querySelectorAll('.match')].map((each) => each.textContent).join()"
ALL = "document.querySelector('#about').textContent"


def test_every_stack_is_drawn_as_wide_as_its_pages(shown: Shown) -> None:
    tab, path = shown
    tab.open(path)
    whole = width(tab, "all ")
    assert whole == 1239
    for name, pages in (("main app.py:17", 80), ("total app.py:7", 60), ("Shop.patch", 10), ("malloc", 4)):
        assert abs(width(tab, name) - whole * pages / 100) <= 1
    assert tab.ask(f"{label('main app.py:17')}{LABEL}") == "main app.py:17: 80 pages, 80.0 %"


def test_a_click_zooms_in_and_escape_out(shown: Shown) -> None:
    tab, path = shown
    tab.open(path, "?zoom")
    tab.click("[aria-label^='total app.py:6']")
    assert width(tab, "total app.py:6") == width(tab, "main app.py:17") == 1239
    assert width(tab, "total app.py:7") == 0
    assert "20 pages, 80 KiB, 20.0 %" in tab.ask(ALL)
    assert not tab.ask("document.querySelector('#out').disabled")
    tab.press("Escape")
    assert width(tab, "total app.py:7") > 700
    tab.click("[aria-label^='total app.py:6']")
    tab.click("#out")
    assert width(tab, "total app.py:7") > 700 and tab.ask("document.querySelector('#out').disabled")


def test_a_search_marks_what_matches_and_counts_its_pages_once(shown: Shown) -> None:
    tab, path = shown
    tab.open(path, "?search")
    assert search(tab, "TOTAL") == "80 pages, 80.0 %"
    assert tab.ask(MATCHES) == "totalapp.py:7,totalapp.py:6"
    tab.press("Escape")
    assert tab.ask(MATCHES) == "" and tab.ask("document.querySelector('#found').textContent") == ""
    assert search(tab, "app.py") == "96 pages, 96.0 %"
    tab.press("Escape")
    assert search(tab, "Item") == "20 pages, 20.0 %"
    tab.press("Escape")
    assert search(tab, "nobody") == "nothing"


def test_enter_in_the_search_goes_from_match_to_match(shown: Shown) -> None:
    tab, path = shown
    tab.open(path, "?matches")
    search(tab, "total")
    seen = []
    for _ in range(3):
        tab.press("Enter")
        seen.append(tab.ask("document.querySelector('#about code').textContent"))
    assert seen == ["app.py:7", "app.py:6", "app.py:7"]


def test_it_is_walked_with_keys(shown: Shown) -> None:
    tab, path = shown
    tab.open(path, "?keys")
    seen = []
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight", "ArrowUp", "ArrowLeft"):
        tab.press(key)
        seen.append(tab.ask(f"document.activeElement{LABEL}").rpartition(":")[0])
    assert seen == [
        "<module> app.py:22",
        "main app.py:17",
        "total app.py:7",
        "total app.py:6",
        "Shop.patch app.py:13",
        "main app.py:18",
        "main app.py:17",
    ]
    tab.press("Enter")
    assert width(tab, "main app.py:17") == 1239 and width(tab, "Shop.patch") == 0
    assert "main" in tab.ask("document.activeElement.textContent")
    tab.press("Escape")
    assert width(tab, "Shop.patch") > 100 and not tab.problems


def test_causes_are_colours_that_can_be_left_out(shown: Shown) -> None:
    tab, path = shown
    tab.open(path, "?causes")
    legend = (
        "[...document.querySelectorAll('#legend button')].filter((each) => !each.hidden)"
        ".map((each) => each.innerText.replace(/\\s+/g, ' ')).join()"
    )
    assert tab.ask(legend) == "reference count 80,gc header 6,allocator metadata 4,data 10"
    colours = (
        "new Set([...document.querySelectorAll('.cause')]"
        ".map((each) => getComputedStyle(each).backgroundColor)).size"
    )
    assert tab.ask(colours) == 4
    tab.click("#legend button")
    assert tab.ask("document.querySelector('#legend button').getAttribute('aria-pressed')") == "false"
    assert width(tab, "total app.py:7") == 0
    assert tab.ask(f"{label('all ')}{LABEL}").endswith("20 pages, 100.0 %")
    tab.click("#legend button")
    assert width(tab, "total app.py:7") > 700


def test_one_process_can_be_looked_at(shown: Shown) -> None:
    tab, path = shown
    tab.open(path, "?process")
    tab.ask(
        "document.querySelector('#process').selectedIndex = 3;"
        "document.querySelector('#process').dispatchEvent(new Event('change'))"
    )
    assert tab.ask(f"{label('all ')}{LABEL}") == "all : 20 pages, 100.0 %"
    assert width(tab, "total app.py:7") == 1239 and width(tab, "malloc") == 0


def test_pointing_at_a_box_tells_about_it(shown: Shown) -> None:
    tab, path = shown
    tab.open(path, "?point")

    def told(name: str) -> str:
        x, y = tab.ask(f"(({{ x, y }}) => [x + 9, y + 9])({label(name)}.getBoundingClientRect())")
        tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        said: str = tab.ask(ALL)
        return said

    said = told("main app.py:18")
    assert said.startswith("main app.py:18") and "10 pages, 40 KiB, 10.0 %" in said and "data 10" in said
    assert told("gc header dict").startswith("gc header of dict ")
    assert told("data :").startswith("data libc.so.6"), "of no object"


@pytest.mark.parametrize("wide", [1280, 700, 400])
def test_it_fits_every_width(shown: Shown, wide: int) -> None:
    tab, path = shown
    tab.size(wide, 800)
    tab.open(path, f"?wide{wide}")
    assert tab.ask("document.documentElement.scrollWidth <= innerWidth")
    assert width(tab, "all ") in range(wide - 45, wide - 15)
    tab.size(1280, 800)


def test_it_is_dark_where_the_reader_s_system_is_and_words_can_be_read(shown: Shown) -> None:
    tab, path = shown
    tab.open(path, "?dark")
    bright = "(getComputedStyle({}).{}.match(/\\d+/g).slice(0, 3).reduce((sum, each) => sum + +each, 0) / 3)"
    for scheme, paper in (("light", 255), ("dark", 18)):
        tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        assert abs(tab.ask(bright.format("document.body", "backgroundColor")) - paper) < 6
        for box in ("document.querySelector('.cause')", "document.querySelector('.box')"):
            ink, ground = (tab.ask(bright.format(box, what)) for what in ("color", "backgroundColor"))
            assert abs(ink - ground) > 90


def test_a_recording_without_copies_says_so(shown: Shown) -> None:
    tab, path = shown
    empty = path.with_name("empty.html")
    said = "getComputedStyle(document.querySelector('#chart'), '::before').content"
    recorded = Recorded(path.with_name("empty.clonal"))
    for words in ("no Python process was hooked in", "no page was copied"):
        empty.write_text(page(tally(load(recorded.path))), "utf-8")
        tab.open(empty)
        assert tab.ask(said).strip('"').startswith(words)
        recorded.process(1)
    for key in ("ArrowDown", "Enter", "Escape"):
        tab.press(key)
    assert not tab.problems
    recorded.close()


def test_what_is_too_narrow_is_drawn_together(shown: Shown) -> None:
    tab, path = shown
    recorded = Recorded(path.with_name("many.clonal"))
    recorded.process(1)
    recorded.copies(1, 3000, (("big", "/srv/app.py", 1),))
    for line in range(2, 200):
        recorded.copies(1, 1, (("small", "/srv/app.py", line),))
    many = path.with_name("many.html")
    many.write_text(page(tally(load(recorded.close()))), "utf-8")
    tab.open(many)
    rest = "document.querySelector('.rest')"
    assert tab.ask(f"{rest}.title") == "198 more, each too narrow to be drawn: zoom in"
    assert tab.ask("document.querySelectorAll('.box').length") < 10
    assert round(tab.ask(f"{rest}.getBoundingClientRect().width")) in range(70, 80)
    tab.size(400, 800)
    tab.open(many, "?narrow")
    right = "getBoundingClientRect().right"
    boxes = f"[...document.querySelectorAll('.box')].map((each) => each.{right})"
    assert tab.ask(f"Math.max(...{boxes}) <= document.querySelector('#chart').{right}")
    tab.size(1280, 800)


def test_it_loads_nothing_and_no_script_fails(shown: Shown) -> None:
    tab, path = shown
    tab.open(path, "?loads")
    tab.press("ArrowDown")
    assert not tab.problems
    assert all(url.startswith(path.parent.as_uri()) for url in tab.requested)
