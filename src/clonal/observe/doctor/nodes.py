"""Processes on one NUMA node, their memory on another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from clonal.kernel import procfs
from clonal.observe import numa
from clonal.observe.doctor.finding import Fact, Finding, Remedy, forked
from clonal.observe.doctor.patient import Patient
from clonal.observe.doctor.predicted import costs
from clonal.report.words import duration, share, size

FAR, OF_ALL = 256 << 20, 0.5  # bytes on other nodes, and their share of the process's memory
PROCESSOR = 36  # the last one it ran on, counted from the state (proc_pid_stat(5))


class Placed(NamedTuple):
    """Where a process ran last, and its memory by node."""

    pid: int
    node: int
    memory: dict[int, int]

    @property
    def far(self) -> int:
        """Bytes on other nodes than its own."""
        return sum(size for node, size in self.memory.items() if node != self.node)


def nodes(patient: Patient) -> Iterator[Finding]:
    """The parent's memory lies where the parent ran when it wrote (mm/mempolicy.c: local allocation)."""
    cpus = numa.cpus_of_nodes()
    if len(cpus) < 2:
        return
    placed = []
    for _, child in patient.forked:
        try:
            node = numa.node_of(processor(procfs.read("stat", child.pid).decode(errors="replace")), cpus)
        except (OSError, LookupError, ValueError):
            continue
        placed.append(Placed(child.pid, node, child.nodes))
    commands = [each.member.command for each in patient.family.members if each.pid == patient.pid]
    yield from far(placed, sorted(cpus), commands[0] if commands else "")


def processor(stat: str) -> int:
    """The processor that a process ran on last, by its stat."""
    return int(stat.rpartition(")")[2].split()[PROCESSOR])


def far(placed: list[Placed], every: list[int], command: str) -> Iterator[Finding]:
    """`every`: the nodes of the machine."""
    found = [each for each in placed if each.far >= max(FAR, OF_ALL * sum(each.memory.values()))]
    if not found:
        return
    worst = max(found, key=lambda each: each.far)
    own = ", ".join(f"{size(bytes_)} on node {node}" for node, bytes_ in sorted(worst.memory.items()))
    evidence = (
        Fact(f"{len(found)} of {forked(len(placed))} ran on another node than most of their memory",
             "processor in /proc/PID/stat"),
        Fact(f"process {worst.pid} ran on node {worst.node}, its memory is {own} "
             f"({share(worst.far / sum(worst.memory.values()))} elsewhere)", f"/proc/{worst.pid}/numa_maps"),
    )  # fmt: skip
    lines = tuple(f"numactl --cpunodebind={node} --membind={node} {command or 'COMMAND'}" for node in every)
    prices = costs()
    near, remote = prices.copy, prices.copy + prices.copy_page * (prices.remote - 1)
    gain = (
        f"a page copied in {duration(near)} instead of {duration(remote)}, by clonal plan "
        f"({prices.origin.kind} costs); the price is the parent's memory once for each node"
    )
    remedy = Remedy("a parent on each node, each with its share of the processes", lines)
    yield Finding("numa", evidence, remedy, None, gain)
