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
