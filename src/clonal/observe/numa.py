"""Memory of a process by node: /proc/PID/numa_maps, where the machine has more than one."""

from __future__ import annotations

import os
import re
from functools import cache

from clonal.kernel import procfs

_NODES = "/sys/devices/system/node"


@cache
def node_count() -> int:
    """Nodes of this machine; 1 where the kernel knows none."""
    try:
        return sum(re.fullmatch(r"node\d+", name) is not None for name in os.listdir(_NODES)) or 1
    except OSError:
        return 1


def parse_cpus(text: str) -> set[int]:
    """The numbers of a list such as 0-3,8 (include/linux/bitmap.h: bitmap_parselist)."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            found.update(range(int(first), int(last or first) + 1))
    return found


def cpus_of_nodes(folder: str = _NODES) -> dict[int, set[int]]:
    """The processors of each node; empty where the kernel knows no nodes."""
    found = {}
    try:
        names = [name for name in os.listdir(folder) if re.fullmatch(r"node\d+", name)]
        for name in names:
            with open(f"{folder}/{name}/cpulist", encoding="ascii") as file:
                found[int(name.removeprefix("node"))] = parse_cpus(file.read())
    except OSError:
        return {}
    return found


def node_of(processor: int, cpus: dict[int, set[int]]) -> int:
    """The node of a processor. Raises LookupError."""
    for node, numbers in cpus.items():
        if processor in numbers:
            return node
    raise LookupError(f"processor {processor} is on no node")


def by_node(pid: int) -> dict[int, int]:
    """Bytes on each node; empty on a machine of one node, where reading would be for nothing."""
    return {} if node_count() == 1 else parse(procfs.read("numa_maps", pid).decode(errors="replace"))


def parse(text: str) -> dict[int, int]:
    """The sums of numa_maps (fs/proc/task_mmu.c show_numa_map)."""
    found: dict[int, int] = {}
    for line in text.splitlines():
        size = re.search(r" kernelpagesize_kB=(\d+)", line)
        for node, count in re.findall(r" N(\d+)=(\d+)", line):
            found[int(node)] = found.get(int(node), 0) + int(count) * (int(size[1]) if size else 4) * 1024
    return dict(sorted(found.items()))
