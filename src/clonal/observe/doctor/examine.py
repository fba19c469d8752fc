"""All findings, of a recording or of a running family, those first that save most."""

from __future__ import annotations

from clonal.observe.analyse import Recording
from clonal.observe.doctor import causes, huge, inherited, limits, nodes, objects, tables
from clonal.observe.doctor.copies import sort_out
from clonal.observe.doctor.execs import execs
from clonal.observe.doctor.finding import Finding, ranked
from clonal.observe.doctor.imports import imports
from clonal.observe.doctor.patient import Patient

OF_RECORDINGS = (
    causes.by_cause, causes.objects, causes.shared_tables, imports, execs,
)  # fmt: skip
OF_FAMILIES = (
    objects.objects_copied, tables.page_tables, huge.small_pages, huge.split_pages, huge.collapsed_pages,
    nodes.nodes, objects.swap, objects.mappings, inherited.threads,
    inherited.descriptors, limits.overcommit, limits.limits,
)  # fmt: skip


def of_recording(recording: Recording) -> list[Finding]:
    """By what was copied and why."""
    copies = sort_out(recording)
    return ranked(finding for find in OF_RECORDINGS for finding in find(copies))


def of_family(patient: Patient) -> tuple[list[Finding], list[str]]:
    """By what can be seen from outside, and what could not: a process may end meanwhile."""
    found: list[Finding] = []
    missing = list(patient.family.problems)
    for find in OF_FAMILIES:
        try:
            found += find(patient)
        except OSError as error:
            missing.append(f"{find.__name__.replace('_', ' ')} not looked at: {error}")
    return ranked(found), missing
