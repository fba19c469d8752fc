"""A running family as the findings look at it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from clonal.kernel.procfs import Smap
from clonal.observe.doctor.framework import Framework, recognise
from clonal.observe.family import Unreadable
from clonal.observe.reading import Reading
from clonal.observe.sharing import FamilySharing, MemberSharing, snapshot


@dataclass(frozen=True)
class Patient:
    """`forked`: pairs of a process and one that it forked; `readings`: what was read of each, by pid."""

    pid: int
    family: FamilySharing
    framework: Framework
    readings: dict[int, Reading] = field(default_factory=dict)

    def entries(self, pid: int) -> list[Smap]:
        """What smaps says of a member."""
        return self.readings[pid].entries

    @property
    def forked(self) -> list[tuple[MemberSharing, MemberSharing]]:
        members = self.family.members
        return [
            (members[parent], child)
            for parent, child in zip(self.family.parents, members, strict=True)
            if parent is not None
        ]

    @property
    def parents(self) -> list[MemberSharing]:
        """Those that have forked, each once."""
        return list({parent.pid: parent for parent, _ in self.forked}.values())


def look(pid: int) -> Patient:
    """Reads the family. Raises Unreadable."""
    taken = snapshot([pid], without=[os.getpid()])
    readings = {each.member.pid: each for each in taken.readings}
    if not any(each.entries for each in readings.values()):
        raise Unreadable(pid, readings[pid].problem)
    words = [word for each in readings.values() for word in (each.member.name, *each.member.command.split())]
    files = {vma.path for vma in readings[pid].vmas if vma.path.startswith("/")}
    return Patient(pid, taken.summary(), recognise(words, files), readings)
