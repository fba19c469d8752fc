"""On which nodes a process runs and has its memory: the part of it that NUMA matters to (mm/mempolicy.c,
6.18)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from clonal.model import numa
from clonal.model.errors import BadMachine, BadPolicy
from clonal.model.frames import Frames, Indices
from clonal.model.numa import Mode, Policy
from clonal.model.space import AddressSpace, page_range

if TYPE_CHECKING:
    from clonal.model.machine import Machine


class Placed:
    """A process as NUMA sees it: `cpu` is where it runs now, `policy` its own, for mappings that have none.
    Both are inherited."""

    machine: Machine

    def _place(self, cpu: int, policy: Policy) -> None:
        self._cpu, self.policy = cpu, policy

    @property
    def space(self) -> AddressSpace:
        """Its address space."""
        raise NotImplementedError

    @property
    def cpu(self) -> int:
        """The CPU that it runs on. Raises BadMachine when set to one that is not there."""
        return self._cpu

    @cpu.setter
    def cpu(self, cpu: int) -> None:
        cpus = self.machine.config.nodes * self.machine.config.cpus_per_node
        if not 0 <= cpu < cpus:
            raise BadMachine("cpu", cpu, f"from 0 to {cpus - 1}")
        self._cpu = cpu

    @property
    def node(self) -> int:
        """The node of its CPU."""
        return self._cpu // self.machine.config.cpus_per_node

    def set_mempolicy(self, mode: Mode, nodes: tuple[int, ...] = ()) -> None:
        """set_mempolicy(2): for what it touches from now on. Raises BadPolicy."""
        self.policy = self._policy(mode, nodes)

    def mbind(self, address: int, length: int, mode: Mode, nodes: tuple[int, ...] = ()) -> None:
        """mbind(2) without moving what is there. Raises BadPolicy, BadRange."""
        policy = self._policy(mode, nodes)
        for vma in self.space.change(*page_range(address, length), lambda vma: vma.policy != policy):
            vma.policy = policy

    def _policy(self, mode: Mode, nodes: tuple[int, ...]) -> Policy:
        policy = Policy(mode, nodes)
        if any(not 0 <= node < self.machine.config.nodes for node in policy.nodes):
            raise BadPolicy(mode.name, policy.nodes, f"has only nodes 0 to {self.machine.config.nodes - 1}")
        return policy

    @property
    def node_pages(self) -> tuple[int, ...]:
        """How many resident pages it has on each node (/proc/PID/numa_maps)."""
        nodes = self._frames().banks.node_of(self._resident())
        return tuple(np.bincount(nodes, minlength=self.machine.config.nodes).tolist())

    def distance(self) -> float:
        """How far its resident pages are from its CPU on average: 10 if all are on its node."""
        nodes = self._frames().banks.node_of(self._resident())
        return numa.distance(np.full(nodes.size, self.node), nodes, self._frames().banks.distances)

    def _frames(self) -> Frames:
        return self.machine.frames

    def _resident(self) -> Indices:
        parts = [self.space.resident(vma) for vma in self.space.vmas]
        return np.concatenate([np.empty(0, np.intp), *parts])
