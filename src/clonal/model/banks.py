"""Free frames, node by node (pg_data_t, mm/page_alloc.c, 6.18)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clonal.model import numa
from clonal.model.numa import Distances, Policy
from clonal.model.sets import values

Indices = npt.NDArray[np.intp]


class Banks:
    """Frames that are free on each node; a frame gets its node when it is first taken, and keeps it.

    `here` and `task` are of the process whose access is being handled: the node of its CPU, its policy.
    """

    def __init__(self, count: int, distances: Distances) -> None:
        nodes = len(distances)
        self.distances = distances
        self.left = [count // nodes + (node < count % nodes) for node in range(nodes)]
        self.here, self.task = 0, numa.DEFAULT
        self.top = 1  # frames from here on were never taken; frame 0 is the zero page
        self._freed: list[list[Indices]] = [[] for _ in range(nodes)]
        self._node = np.zeros(0, np.int8)  # by frame, where there are several

    def node_of(self, frames: Indices) -> npt.NDArray[np.int64]:
        """The node that each frame is on."""
        if len(self.left) == 1:
            return np.zeros(frames.size, np.int64)
        return self._node[frames].astype(np.int64)

    def take(self, count: int, policy: Policy, offsets: npt.NDArray[np.int64] | None) -> Indices:
        """`count` free frames for pages at these offsets of a mapping with this policy. Raises OutOfFrames,
        and has then taken none."""
        if len(self.left) == 1:
            return self._take(0, count)
        wanted = numa.effective(policy, self.task)
        at = np.arange(count) if offsets is None else offsets
        nodes = numa.place(wanted, self.here, at, self.left, self.distances)
        found = np.empty(count, np.intp)
        for node in values(nodes):
            which = nodes == node
            found[which] = self._take(node, int(which.sum()))
        return found

    def _take(self, node: int, count: int) -> Indices:
        self.left[node] -= count
        parts, freed = [], self._freed[node]
        while freed and count:
            last = freed.pop()
            if last.size > count:
                freed.append(last[count:])
                last = last[:count]
            parts.append(last)
            count -= last.size
        if count:
            parts.append(self._fresh(node, count))
        return np.concatenate(parts) if parts else np.empty(0, np.intp)

    def _fresh(self, node: int, count: int) -> Indices:
        first, self.top = self.top, self.top + count
        if len(self.left) > 1:
            if self._node.size < self.top:
                more = max(self.top, 2 * self._node.size) - self._node.size
                self._node = np.concatenate([self._node, np.zeros(more, np.int8)])
            self._node[first : self.top] = node
        return np.arange(first, self.top, dtype=np.intp)

    def give(self, frames: Indices) -> None:
        """Frames that are free again."""
        nodes = self.node_of(frames)
        for node in range(len(self.left)):
            mine = frames if len(self.left) == 1 else frames[nodes == node]
            if mine.size:
                self.left[node] += mine.size
                self._freed[node].append(mine)
