"""Servers that are too large to simulate: what follows from smaller ones is what the whole one needs."""

from __future__ import annotations

import pytest

from clonal.plan import exact, scale
from clonal.plan.costs import DEFAULT
from clonal.plan.exact import simulate
from clonal.plan.overtime import over_time
from clonal.plan.question import Fleet
from clonal.plan.server import Server
from clonal.plan.ways import way, ways

MB, GB = 1 << 20, 1 << 30
SERVERS = [
    Server.of(400 * MB, 100 * MB, libraries=20),
    Server.of(400 * MB, 0, thp=True),
    Server(heap=0, image=400 * MB, code=40 * MB, vmas=20),
]


@pytest.mark.parametrize("server", SERVERS, ids=["small pages", "huge pages", "image"])
def test_what_follows_from_smaller_servers_is_what_the_whole_one_needs(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(written=0.05, read=0.1)
    whole = ways(server, fleet, DEFAULT)
    monkeypatch.setattr(scale, "PRICED", 100 * MB)
    for name, drawn_on in ways(server, fleet, DEFAULT).items():
        for what in ("stall", "ready", "touch", "end", "private", "overhead", "resident"):
            assert getattr(drawn_on, what) == pytest.approx(getattr(whole[name], what), rel=0.03), (
                name,
                what,
            )


def test_of_a_part_of_a_server_all_counts_are_for_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    server, fleet = Server.of(400 * MB, 0), Fleet(clones=4)
    whole = simulate(server, fleet)
    monkeypatch.setattr(scale, "EXACT", 100 * MB)
    part = simulate(server, fleet)
    assert (whole.share, part.share) == (1, 0.25)
    assert part.copied == whole.copied == 4 * 5120
    assert part.private == pytest.approx(whole.private, rel=0.03)


def test_mappings_beyond_those_simulated_cost_as_much_each() -> None:
    prices = [way("cow", Server.of(MB, 0, vmas=count), Fleet(), DEFAULT) for count in (100, 10_100, 20_100)]
    assert prices[1].stall - prices[0].stall == pytest.approx(10_000 * (DEFAULT.vma + DEFAULT.file_vma))
    assert prices[2].stall - prices[1].stall == pytest.approx(prices[1].stall - prices[0].stall)


def test_a_terabyte_is_planned() -> None:
    fork = way("cow", Server.of(1024 * GB, 0), Fleet(read=0.0), DEFAULT)
    half = way("cow", Server.of(512 * GB, 0), Fleet(read=0.0), DEFAULT)
    assert fork.stall == pytest.approx(2 * half.stall, rel=0.01)


def test_lives_too_many_to_be_followed_take_as_much_memory() -> None:
    followed, by_chance = (
        over_time(Fleet(clones=clones, lifetime=1.0), 0.0, 0.0, 1e9 / clones, 1 / clones, 1.0, 1e12)
        for clones in (2_000, 250_000)
    )
    assert by_chance.p50 == pytest.approx(followed.p50, rel=0.02)


def test_of_very_many_clones_some_are_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server.of(MB, 0)
    monkeypatch.setattr(exact, "MOST_CLONES", 10)
    assert simulate(server, Fleet(clones=1_000_000)).clones == 10
    monkeypatch.setattr(exact, "MOST_PAGES", 5 * 257 * 4)
    assert simulate(server, Fleet(clones=1_000_000, written=1.0)).clones == 4
