"""`clonal doctor`: processes on one NUMA node, their memory on another, by what the kernel says of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from clonal.observe import numa
from clonal.observe.doctor.nodes import Placed, far, processor

pytestmark = pytest.mark.newest

NUMA_MAPS = """\
55d6c0000000 default heap anon=131072 dirty=131072 N0=131072 kernelpagesize_kB=4
7f0000000000 default anon=65536 dirty=65536 N0=32768 N1=32768 kernelpagesize_kB=4
7f2000000000 default huge anon=4 dirty=4 N0=4 kernelpagesize_kB=2048
7f3000000000 default file=/usr/lib/libc.so.6 mapped=10 N0=10 kernelpagesize_kB=4
"""
STAT = "4711 (a b) c) S 1 4711 4711 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 99 " + "0 " * 15 + "17 9 0"
MB = 1 << 20


def machine(folder: Path) -> dict[int, set[int]]:
    for node, cpus in ((0, "0-3,8"), (1, "4-7,9-11\n")):
        (folder / f"node{node}").mkdir()
        (folder / f"node{node}" / "cpulist").write_text(cpus)
    (folder / "online").write_text("0-1\n")
    return numa.cpus_of_nodes(str(folder))


def test_processors_and_memory_are_read_by_node(tmp_path: Path) -> None:
    cpus = machine(tmp_path)
    assert cpus == {0: {0, 1, 2, 3, 8}, 1: {4, 5, 6, 7, 9, 10, 11}}
    assert processor(STAT) == 9 and numa.node_of(9, cpus) == 1
    assert numa.parse(NUMA_MAPS) == {0: 648 * MB + 10 * 4096, 1: 128 * MB}


def test_a_child_that_runs_far_from_its_memory_is_found() -> None:
    children = [Placed(7, 1, numa.parse(NUMA_MAPS)), Placed(8, 0, numa.parse(NUMA_MAPS))]
    [found] = far(children, [0, 1], "gunicorn app:app")
    assert found.name == "numa" and "1 of 2 forked processes" in found.evidence[0].text
    assert (
        "process 7 ran on node 1, its memory is 648 MiB on node 0, 128 MiB on node 1"
        in found.evidence[1].text
    )
    assert found.remedy.lines == (
        "numactl --cpunodebind=0 --membind=0 gunicorn app:app",
        "numactl --cpunodebind=1 --membind=1 gunicorn app:app",
    )
    assert "instead of 2.30 µs" in found.instead


def test_children_near_their_memory_are_no_finding() -> None:
    assert not list(far([], [0, 1], ""))
    assert not list(far([Placed(7, 0, numa.parse(NUMA_MAPS))], [0, 1], ""))
    assert not list(far([Placed(7, 1, {0: 100 * MB})], [0, 1], ""))  # small
    assert not list(far([Placed(7, 1, {0: 300 * MB, 1: 900 * MB})], [0, 1], ""))  # most of it is near


def test_a_processor_of_no_node_says_so(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="processor 99 is on no node"):
        numa.node_of(99, machine(tmp_path))
    assert numa.cpus_of_nodes("/nowhere") == {}
