"""A running family as the findings look at it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace

from clonal.kernel.procfs import Smap
from clonal.observe.doctor.framework import Framework, recognise
from clonal.observe.family import Unreadable
from clonal.observe.pools import is_python
from clonal.observe.reading import Reading
from clonal.observe.sharing import FamilySharing, MemberSharing, snapshot


@dataclass(frozen=True)
class Patient:
    """`forked`: pairs of a process and one that it forked; `readings`: what was read of each, by pid."""

    pid: int
    family: FamilySharing
    readings: dict[int, Reading] = field(default_factory=dict)
    framework: Framework = Framework.NONE

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
    found = Patient(pid, taken.summary(), readings)
    return replace(found, framework=_framework(found))


def _framework(patient: Patient) -> Framework:
    """Of the processes that fork; of all where none does."""
    readings = [patient.readings[each.pid] for each in patient.parents] or list(patient.readings.values())
    if not any(is_python(each.vmas) for each in readings):
        return Framework.NONE
    members = [each.member for each in patient.readings.values()]
    commands = [words for each in members for words in ([each.name], each.command.split())]
    files = {vma.path for each in readings for vma in each.vmas if vma.path.startswith("/")}
    return recognise(commands, files)
