"""On which node a frame is taken (mm/mempolicy.c, mm/page_alloc.c, 6.18).

Pure: nodes are numbers from 0, distances a table as in the ACPI SLIT, frames only counts.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clonal.model.errors import BadMachine, BadPolicy, OutOfFrames
from clonal.model.sets import values

Nodes = npt.NDArray[np.int64]
Distances = tuple[tuple[int, ...], ...]
LOCAL, REMOTE = 10, 20  # LOCAL_DISTANCE, REMOTE_DISTANCE (include/linux/topology.h)


class Mode(enum.IntEnum):
    """set_mempolicy(2), mbind(2)."""

    DEFAULT = 0
    PREFERRED = 1
    BIND = 2
    INTERLEAVE = 3
    LOCAL = 4


@dataclass(frozen=True)
class Policy:
    """A memory policy (struct mempolicy). Raises BadPolicy for nodes that its mode does not take
    (mpol_new)."""

    mode: Mode = Mode.DEFAULT
    nodes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.mode not in Mode.__members__.values():
            raise BadPolicy(str(int(self.mode)), self.nodes, "is none that the model has")
        object.__setattr__(self, "nodes", tuple(sorted(set(self.nodes))))
        if self.mode in (Mode.DEFAULT, Mode.LOCAL) and self.nodes:
            raise BadPolicy(self.mode.name, self.nodes, "takes no nodes")
        if self.mode in (Mode.BIND, Mode.INTERLEAVE) and not self.nodes:
            raise BadPolicy(self.mode.name, self.nodes, "needs a node")
        if self.mode is Mode.PREFERRED and not self.nodes:
            object.__setattr__(self, "mode", Mode.LOCAL)


DEFAULT = Policy()


def effective(mapping: Policy, task: Policy) -> Policy:
    """The mapping's policy, or where it has none the task's. Both are inherited at fork (get_vma_policy;
    kernel/fork.c: vma_dup_policy, mpol_dup)."""
    return task if mapping.mode is Mode.DEFAULT else mapping


def even(nodes: int) -> Distances:
    """Distances of a machine whose nodes are all equally far from each other."""
    return tuple(tuple(LOCAL if a == b else REMOTE for b in range(nodes)) for a in range(nodes))


def checked(distances: Iterable[Iterable[int]], nodes: int) -> Distances:
    """The table, if it can be one. Raises BadMachine (drivers/acpi/numa/srat.c slit_valid)."""
    table = tuple(tuple(row) for row in distances)
    if len(table) != nodes or any(len(row) != nodes for row in table):
        raise BadMachine("distances", table, f"{nodes} rows of {nodes}")
    for a, row in enumerate(table):
        if row[a] != LOCAL or any(far <= LOCAL for b, far in enumerate(row) if b != a):
            raise BadMachine("distances", table, f"{LOCAL} from a node to itself and more to any other")
    return table


def fallback(distances: Distances, node: int) -> tuple[int, ...]:
    """The nodes in the order in which one that is full is replaced: itself, then the nearest; those before it
    count as one farther, "prefer the next node" (build_zonelists, find_next_best_node). Of equals the lowest
    number: the kernel weighs how often each is already next, which matters from four nodes on."""

    def key(other: int) -> tuple[bool, int, int]:
        return other != node, distances[node][other] + (other < node), other

    return tuple(sorted(range(len(distances)), key=key))


def allowed(policy: Policy, node: int, distances: Distances) -> tuple[int, ...]:
    """The nodes to try for a fault taken by a CPU of `node`, best first: all but for BIND, which would rather
    run out of memory than leave its nodes (policy_nodemask). INTERLEAVE depends on the page: `wanted`."""
    if policy.mode is Mode.PREFERRED:
        return fallback(distances, policy.nodes[0])
    order = fallback(distances, node)
    return tuple(each for each in order if each in policy.nodes) if policy.mode is Mode.BIND else order


def wanted(policy: Policy, node: int, offsets: Nodes, distances: Distances) -> Nodes:
    """The node where each page should be. `offsets`: the pages' offsets in the file, or their numbers in
    anonymous memory: what interleaving goes by, so that a copy is placed as the page was (interleave_nid,
    vma->vm_pgoff)."""
    if policy.mode is Mode.INTERLEAVE:
        return np.asarray(policy.nodes, np.int64)[offsets % len(policy.nodes)]
    return np.full(offsets.size, allowed(policy, node, distances)[0], np.int64)


def place(
    policy: Policy, node: int, offsets: Nodes, free: Sequence[int], distances: Distances | None = None
) -> Nodes:
    """The node where each page gets its frame, in order, as nodes with `free` frames fill up
    (get_page_from_freelist). Raises OutOfFrames when all that the policy allows are full."""
    table = distances or even(len(free))
    aims = wanted(policy, node, offsets, table)
    left = list(free)
    if (np.bincount(aims, minlength=len(left)) <= left).all():
        return aims
    found = aims.copy()
    for aim in values(aims):
        pages = np.flatnonzero(aims == aim)
        order = allowed(policy, node, table) if policy.mode is Mode.BIND else fallback(table, aim)
        reachable = sum(left[each] for each in order)
        if pages.size > reachable:
            raise OutOfFrames(pages.size, reachable)
        _fill(found, pages, order, left)
    return found


def _fill(found: Nodes, pages: npt.NDArray[np.intp], order: Sequence[int], left: list[int]) -> None:
    """Gives `pages` the nodes in `order`, each until nothing is left of it."""
    done = 0
    for each in order:
        count = min(left[each], pages.size - done)
        found[pages[done : done + count]] = each
        left[each] -= count
        done += count


def distance(nodes: Nodes, frames: Nodes, distances: Distances) -> float:
    """The mean distance of accesses, each from one of `nodes` to one of `frames`' nodes: 10 if all are
    local."""
    return float(np.asarray(distances)[nodes, frames].mean()) if nodes.size else float(LOCAL)
