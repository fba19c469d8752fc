"""Of a running family: Python objects that were copied, swapped memory, many mappings."""

from __future__ import annotations

from collections.abc import Iterator

from clonal.kernel import procfs
from clonal.kernel.memory import vm_setting
from clonal.observe.doctor.finding import WORTH, Fact, Finding, Remedy, forked
from clonal.observe.doctor.framework import before_fork
from clonal.observe.doctor.patient import Patient
from clonal.observe.doctor.predicted import less_own
from clonal.observe.kinds import MemoryKind
from clonal.observe.sharing import MemberSharing
from clonal.report.words import share, size

SWAPPED = 16 << 20
NEAR = 0.8  # of vm.max_map_count


def objects_copied(patient: Patient) -> Iterator[Finding]:
    """From outside the cause cannot be seen: counts, collector and allocator together are the gain."""
    children = [child for _, child in patient.forked]
    copied = {child.pid: _copied(child) for child in children}
    all_ = sum(copied.values())
    saved = less_own(all_, len(children))
    if not children or saved < WORTH * len(children):
        return
    most = max(copied, key=lambda pid: copied[pid])
    source = f"clonal map {patient.pid}"
    evidence = (
        Fact(f"{size(all_)} of Python objects copied in {forked(len(children))}", source),
        Fact(f"{size(copied[most])} of them in process {most}", source),
        Fact(f"at most {size(saved)} are saved: a frozen interpreter copies some pages too, and what the "
             "program means to write stays", "clonal doctor -- COMMAND tells it apart"),
    )  # fmt: skip
    remedy = before_fork(patient.framework, "clonal", "clonal.freeze()")
    yield Finding("objects-copied", evidence, remedy, saved)


def _copied(child: MemberSharing) -> int:
    usage = child.kinds.get(MemoryKind.OBJECTS)
    return (usage.copied or 0) if usage else 0


def swap(patient: Patient) -> Iterator[Finding]:
    """Each child that reads a swapped page waits for the disk."""
    swapped = sum(each.total.swapped for each in patient.family.members)
    if swapped >= SWAPPED:
        most = max(patient.family.members, key=lambda each: each.total.swapped)
        evidence = (
            Fact(f"{size(swapped)} mapped by the family are swapped out", "/proc/PID/pagemap"),
            Fact(f"{size(most.total.swapped)} of process {most.pid}", "/proc/PID/pagemap"),
        )
        remedy = Remedy(
            "as root, where RAM is free; else start fewer processes", ("swapoff -a && swapon -a",)
        )
        yield Finding("swap", evidence, remedy, None, "no reads from the disk")


def mappings(patient: Patient) -> Iterator[Finding]:
    """A fork fails where it cannot be given as many (mm/mmap.c: ENOMEM)."""
    limit = vm_setting("max_map_count")
    for each in patient.family.members:
        try:
            count = procfs.vma_count(each.pid)
        except OSError:
            continue
        if count >= NEAR * limit:
            text = f"process {each.pid} has {count:,} mappings of {limit:,} ({share(count / limit)})"
            remedy = Remedy("as root", (f"sysctl -w vm.max_map_count={4 * limit}",))
            fact = Fact(text, f"/proc/{each.pid}/maps, vm.max_map_count")
            yield Finding("mappings", (fact,), remedy, None, "mmap and munmap are not refused")
            return
