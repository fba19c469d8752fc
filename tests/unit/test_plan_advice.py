"""What to change: each remedy appears where it helps, with what the plan says of it."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from clonal.errors import Error
from clonal.plan.advice import Remedy, advise
from clonal.plan.costs import DEFAULT
from clonal.plan.planner import plan
from clonal.plan.question import Fleet, Host
from clonal.plan.server import Server, measure
from clonal.plan.sweep import MOST, combinations, parse

MB = 1 << 20
SERVER = Server.of(64 * MB, 8 * MB)
HOST = Host(ram=4096 * MB, cores=2)


def remedies(server: Server = SERVER, fleet: Fleet | None = None, host: Host = HOST) -> dict[str, Remedy]:
    found = plan(server, fleet or Fleet(10), host, DEFAULT, exact=1)
    return {remedy.what.split(":")[0].split(",")[0]: remedy for remedy in advise(found)}


def test_a_plain_server_is_told_of_images_huge_pages_standby_and_populating() -> None:
    assert list(remedies()) == [
        "freeze the heap into an image", "huge pages for the heap", "keep clones ready",
        "populate in the child",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("what", "server", "fleet", "host"),
    [
        ("vfork", SERVER, Fleet(10, execs=True), HOST),
        ("make the warm objects immortal", SERVER, Fleet(10, refcounts=0.3), HOST),
        ("share what all clones write", SERVER, Fleet(10, same=True), HOST),
        ("let the kernel promise more", SERVER, Fleet(100), replace(HOST, overcommit=2)),
        ("have a clone killed", SERVER, Fleet(1000, written=0.5), HOST),
        ("a server on each node", SERVER, Fleet(10), replace(HOST, nodes=2)),
    ],
)
def test_a_remedy_appears_where_it_helps(what: str, server: Server, fleet: Fleet, host: Host) -> None:
    assert what in remedies(server, fleet, host)
    assert what not in remedies()


def test_an_image_is_not_told_to_become_one() -> None:
    frozen = replace(SERVER, heap=MB, image=63 * MB)
    assert not {"freeze the heap into an image", "huge pages for the heap"} & remedies(frozen).keys()


def test_a_gain_is_what_the_plan_of_the_changed_server_says() -> None:
    found = plan(SERVER, Fleet(10), HOST, DEFAULT, exact=1)
    fork = remedies()["freeze the heap into an image"].gains[0]
    assert (fork.before, fork.after) == (
        found.outlooks["cow"].way.stall * 1e-9, found.outlooks["image"].way.stall * 1e-9,
    )  # fmt: skip


def test_this_process_is_measured() -> None:
    kept = bytearray(b"1" * (32 * MB))
    found = measure(os.getpid())
    assert found.python
    assert found.heap >= len(kept)
    assert found.vmas > found.anon_vmas > 0
    assert found.mapped_files > 0
    assert found.image == 0


def test_a_process_that_is_not_there_is_refused_in_one_line() -> None:
    with pytest.raises(Error, match=r"^process 4194305 is not running$"):
        measure(4194305)


def test_axes_are_all_combined() -> None:
    axes = parse(["clones=1,10", "heap=1M,2M,4M"], ["clones", "heap"])
    assert list(combinations(axes))[:2] == [("1", "1M"), ("1", "2M")]
    assert len(list(combinations(axes))) == 6


@pytest.mark.parametrize(
    "texts",
    [
        ["nothing=1"],
        ["clones"],
        ["clones="],
        ["clones=1", "clones=2"],
        ["clones=" + ",".join(map(str, range(MOST + 1)))],
    ],
)
def test_axes_that_cannot_be_are_refused(texts: list[str]) -> None:
    with pytest.raises(Error, match=r"^--sweep: "):
        parse(texts, ["clones", "heap"])
