"""The page of `clonal map --html` in a real browser: what it says of a page is what the family has done."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from clonal.observe import frames, page_map
from clonal.observe.family import Member
from clonal.observe.kinds import MemoryKind, Region
from clonal.observe.pages import Pages, frames_shown
from clonal.observe.reading import Reading
from clonal.observe.sharing import Snapshot, snapshot
from tests.browser import Browser, browser, chromium
from tests.integration.sharing_fixtures import running

pytestmark = pytest.mark.newest

PAGE = 4096
FAMILY = """
import ctypes
memory = area(2000)
write(memory, 2000)
handle = ctypes.c_char.from_buffer(memory)
start = ctypes.addressof(handle)
children = [fork(lambda: write(memory, 640)), fork(lambda: write(memory, 320))]
tell(children=children, start=start)
"""


@dataclass
class Shown:
    """The page of a family of known sharing."""

    tab: Browser
    path: Path
    pid: int
    children: list[int]
    start: int

    def open(self, name: str) -> None:
        self.tab.open(self.path, f"?{name}")
        self.tab.ask(READY)

    def hover(self, member: int, page: int) -> str:
        """The mouse on a page of the area; what the tip says."""
        self.tab.ask(f"({SCROLL})({self.start // PAGE + page})")
        x, y = self.tab.ask(f"({PLACE})({self.start // PAGE + page}, {member})")
        self.tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        return str(self.tab.ask("document.querySelector('#tip').innerText"))


READY = """new Promise((done) => {
  const look = () => document.documentElement.dataset.ready ? done(true) : setTimeout(look, 5); look(); })"""
SCROLL = """(page) => {
  document.querySelector('#map').scrollTop = pageMap.place(...pageMap.find(page), 0)[1] - 150 }"""
PLACE = """(page, member) => { const [row, cell] = pageMap.find(page);
  const [x, y] = pageMap.place(row, cell, member), box = document.querySelector('#map');
  const area = box.getBoundingClientRect();
  return [area.left + x - box.scrollLeft, area.top + y - box.scrollTop] }"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    program = chromium()
    if program is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    path = tmp_path_factory.mktemp("map") / "page.html"
    with running(FAMILY) as facts:
        path.write_text(page_map.page(snapshot([facts["pid"]], index=True)), "utf-8")
    with browser(program) as opened:
        opened.size(1280, 800)
        yield Shown(opened, path, facts["pid"], facts["children"], facts["start"])


def test_hover_says_what_a_page_is_and_who_shares_it(shown: Shown) -> None:
    shown.open("hover")
    first, second = shown.children
    copied = shown.hover(1, 500)
    assert f"0x{shown.start + 500 * PAGE:x}" in copied
    assert "large buffers" in copied
    assert f"{first} " in copied and "alone" in copied
    kept = shown.hover(2, 500)
    if frames_shown():
        assert "shared with its parent" in kept and f"also mapped by {shown.pid}" in kept
        assert re.search(r"frame 0x[0-9a-f]+", kept) and str(first) not in kept.partition("also")[2]
        everybody = shown.hover(0, 1500)
        assert "shared by all members" in everybody and f"{first}, {second}" in everybody
        assert re.findall("frame .*", everybody) == re.findall("frame .*", shown.hover(1, 1500))
    else:
        assert "with whom is not known" in kept


def test_the_keyboard_moves_and_tells_the_same(shown: Shown) -> None:
    shown.open("keys")
    tab = shown.tab
    tab.press("Home")
    first = tab.ask("document.querySelector('#tip').innerText")
    assert re.match(r"0x[0-9a-f]+\n", first)
    tab.press("ArrowRight")
    assert tab.ask("JSON.stringify(pageMap.cursor())") == '{"row":1,"member":0,"cell":1}'
    tab.press("ArrowLeft")
    assert tab.ask("document.querySelector('#tip').innerText") == first
    tab.press("ArrowDown")
    assert tab.ask("pageMap.cursor().row") > 1
    tab.press("End")
    assert tab.ask("pageMap.cursor().row === pageMap.rows().length - 1")


def test_buttons_change_the_scale_and_the_legend_picks_a_state(shown: Shown) -> None:
    shown.open("buttons")
    tab = shown.tab
    scale = "document.querySelector('#scale').textContent"
    assert tab.ask(scale) == "1 page per cell"
    tab.click("#out")
    assert tab.ask(scale) == "2 pages per cell"
    tip = shown.hover(1, 500)
    assert "2 of 2 pages in memory, 2 of them alone" in tip
    tab.click("#in")
    assert tab.ask(scale) == "1 page per cell"
    tab.click("#legend button")
    assert tab.ask("document.querySelector('#legend button').getAttribute('aria-pressed')") == "true"
    legend = tab.ask("document.querySelector('#legend').textContent")
    assert "alone" in legend and "page of a file" in legend and "image" not in legend  # what there is


def test_pages_have_the_colours_of_the_legend_in_light_and_dark(shown: Shown) -> None:
    tab = shown.tab
    seen = []
    for scheme in ("light", "dark"):
        tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        shown.open(scheme)
        shown.hover(0, 1000)  # brings it into sight
        for member, page in ((1, 500), (2, 500), (0, 1500)):
            seen.append(tab.ask(f"({COLOUR})({shown.start // PAGE + page}, {member})"))
    tab.call("Emulation.setEmulatedMedia", features=[])
    assert len(set(seen)) == (6 if frames_shown() else 4)


COLOUR = """(page, member) => { const [row, cell] = pageMap.find(page);
  const box = document.querySelector('#map'), canvas = box.querySelector('canvas');
  box.scrollTop = pageMap.place(row, cell, member)[1] - 150; pageMap.draw();
  const [x, y] = pageMap.place(row, cell, member);
  return canvas.getContext('2d').getImageData(x - box.scrollLeft, y - box.scrollTop, 1, 1).data.join() }"""


@pytest.mark.parametrize("width", [1280, 700])
def test_it_fits_every_width_loads_nothing_and_no_script_fails(shown: Shown, width: int) -> None:
    tab = shown.tab
    tab.size(width, 800)
    shown.open(f"wide{width}")
    assert tab.ask("document.documentElement.scrollWidth <= innerWidth")
    assert tab.ask("document.querySelector('#map').clientHeight > 300")
    tab.size(1280, 800)
    assert not tab.problems
    assert all(url.startswith(shown.path.parent.as_uri()) for url in tab.requested)


def test_a_family_whose_pages_are_each_shared_by_others_is_drawn_small_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each page has a set of sharers of its own: what names them must become less with the cells."""
    members, pages = 40, 2000
    taken = made_up(members, np.random.default_rng(1).random((members, pages)) < 0.5)
    monkeypatch.setattr(page_map, "MOST_BYTES", len(page_map.page(taken)) // 2)
    data = re.search(r'id="data">(.*?)</script>', page_map.page(taken))
    assert data is not None
    found = json.loads(data[1])
    assert found["step"] > 1
    assert all(1 <= count <= members and len(who) == min(count, 13) for count, *who in found["sets"])
    monkeypatch.setattr(page_map, "MOST_BYTES", 1)
    assert '"step":2048,' in page_map.page(taken)  # there is no less than a cell for a mapping


def test_of_many_sharers_the_first_are_named_and_the_others_counted(shown: Shown) -> None:
    own = np.zeros((40, 3), bool)
    own[30:, 0] = True
    many = shown.path.with_name("many.html")
    many.write_text(page_map.page(made_up(40, own)), "utf-8")
    shown.tab.open(many, "")
    shown.tab.ask(READY)
    shown.tab.press("Home")
    told = shown.tab.ask("document.querySelector('#tip').innerText")
    assert f"also mapped by {', '.join(str(pid) for pid in range(101, 113))} and 17 more" in told
    shown.tab.press("ArrowRight")
    assert "112 and 27 more" in shown.tab.ask("document.querySelector('#tip').innerText")


def test_a_family_that_could_not_be_read_has_a_page_without_cells(shown: Shown) -> None:
    empty = shown.path.with_name("empty.html")
    empty.write_text(page_map.page(made_up(2, np.zeros((2, 0), bool))), "utf-8")
    shown.tab.open(empty, "")
    shown.tab.ask(READY)
    for key in ("Home", "ArrowDown", "End"):
        shown.tab.press(key)
    assert shown.tab.ask("pageMap.rows().length") == 0 and not shown.tab.problems


def made_up(members: int, own: npt.NDArray[np.bool_]) -> Snapshot:
    """A first member and its children, which have `own` frames of some of its pages."""
    readings = []
    number = np.arange(1000, 1000 + own.shape[1])
    for at, copied in enumerate(own):
        frame = np.where(copied, number + (at + 1) * 100_000, number)
        each = Reading(Member(100 + at, 100, "x"), pages=Pages(number, frame, copied.astype(np.uint8)))
        if len(number):
            each.regions = [Region(1000 * PAGE, (1000 + len(number)) * PAGE, MemoryKind.BUFFERS, "", 0)]
        each.place()
        readings.append(each)
    forked = [None, *[0] * (members - 1)]
    return Snapshot(readings, forked, frames.count(readings, forked, True, index=True), True, 0.1)


def test_a_large_family_is_drawn_in_runs_and_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(FAMILY) as facts:
        taken = snapshot([facts["pid"]], index=True)
    exact = page_map.page(taken)
    monkeypatch.setattr(page_map, "MOST_CELLS", 3000)
    rough = page_map.page(taken)
    assert '"step":1,' in exact and re.search(r'"step":(4|8|16),', rough)
    assert len(rough) < len(exact)
