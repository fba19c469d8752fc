"""On which node a new frame lies (mm/mempolicy.c, 6.18). Frames that are there do not move."""

from __future__ import annotations

from collections.abc import Mapping

from clonal.scenario import Observation, Shown
from clonal.scenario.runner import PAGE, Region

NODES = 2
INTERLEAVE = "interleave"


def place(policy: str, home: int, page: int) -> int:
    """The node for the frame of a page: by the task's policy, else the node of the CPU that faults.

    MPOL_INTERLEAVE goes by the place in the mapping (get_vma_policy adds vm_pgoff, which of anonymous memory
    is the page number; interleave_nid takes the remainder).
    """
    return page % NODES if policy == INTERLEAVE else home


class Placing:
    """Where the frames of a scenario lie. Who writes gets the frame, so a frame that is new is placed by the
    process that maps it."""

    def __init__(self) -> None:
        self.homes: dict[str, int] = {}
        self.policies: dict[str, str] = {}
        self.nodes: dict[int, int] = {}

    def follow(self, seen: Observation, regions: Mapping[str, Mapping[str, Region]]) -> None:
        """Places what is new after a step, and forgets what is gone."""
        mapped = set()
        for who, view in seen.processes.items():
            for name, pages in view.regions.items():
                first = regions[who][name].address // PAGE
                for index in (pages.kind == Shown.ANON).nonzero()[0].tolist():
                    frame = int(pages.frame[index])
                    mapped.add(frame)
                    if frame not in self.nodes:
                        policy, home = self.policies.get(who, ""), self.homes.get(who, 0)
                        self.nodes[frame] = place(policy, home, first + index)
        self.nodes = {frame: node for frame, node in self.nodes.items() if frame in mapped}
