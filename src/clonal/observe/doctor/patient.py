"""A running family as the findings look at it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from clonal.kernel import procfs
from clonal.observe.doctor.framework import Framework, recognise
from clonal.observe.family import family
from clonal.observe.sharing import FamilySharing, MemberSharing, snapshot


@dataclass(frozen=True)
class Patient:
    """`forked`: pairs of a process and one that it forked."""

    pid: int
    family: FamilySharing
    framework: Framework

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
    members = family(pid, without=[os.getpid()])
    words = [word for each in members for word in each.command.split()]
    files = {vma.path for vma in procfs.maps(pid) if vma.path.startswith("/")}
    return Patient(pid, snapshot([pid], without=[os.getpid()]).summary(), recognise(words, files))
