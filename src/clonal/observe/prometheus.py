"""A family's sharing in Prometheus' text exposition format
(https://prometheus.io/docs/instrumenting/exposition_formats/)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from clonal.observe.sharing import FamilySharing, MemberSharing

Sample = tuple[Mapping[str, object], int | None]

_OF_KINDS = {
    "present": "Memory in RAM that the process maps",
    "shared": "Of it, shared with other members of the family; with any process if clonal_map_by_frames is 0",
    "elsewhere": "Of it, shared with processes outside the family only",
    "exclusive": "Of it, mapped by this process alone",
    "copied": "Copied since the process was forked from a member of the family",
    "swapped": "Swapped out",
    "huge": "In huge page-table entries",
}
_OF_MEMBERS = {
    "rss": "Resident set, as the kernel counts it",
    "pss": "Proportional share of the resident set",
    "uss": "Resident memory that no other process maps, as the kernel counts it",
    "page_tables": "Page tables",
}


def text(family: FamilySharing) -> str:
    """The whole exposition. What is not known has no sample."""
    return "\n".join(_lines(family)) + "\n"


def _lines(family: FamilySharing) -> Iterator[str]:
    by_frames = int(family.method == "pfn")
    yield from _metric(
        "clonal_map_by_frames", "1 where page frames were shown, 0 by the exclusive bit", [({}, by_frames)]
    )
    for name, help_text in _OF_KINDS.items():
        samples = [
            ({**_labels(each), "kind": str(kind)}, getattr(usage, name))
            for each in family.members
            for kind, usage in each.kinds.items()
        ]
        yield from _metric(f"clonal_memory_{name}_bytes", help_text, samples)
    for name, help_text in _OF_MEMBERS.items():
        samples = [(_labels(each), getattr(each, name)) for each in family.members if each.known]
        yield from _metric(f"clonal_process_{name}_bytes", help_text, samples)
    on_nodes = [
        ({**_labels(each), "node": node}, size)
        for each in family.members
        for node, size in each.nodes.items()
    ]
    yield from _metric("clonal_process_node_bytes", "Memory on each NUMA node", on_nodes)
    taken = [({"kind": str(kind)}, size) for kind, size in (family.distinct or {}).items()]
    yield from _metric("clonal_family_distinct_bytes", "Memory of the family, each frame counted once", taken)


def _labels(each: MemberSharing) -> dict[str, object]:
    member = each.member
    return {"pid": member.pid, "ppid": member.ppid, "name": member.name, "role": member.role}


def _metric(name: str, help_text: str, samples: Iterable[Sample]) -> Iterator[str]:
    known = [(labels, value) for labels, value in samples if value is not None]
    if not known:
        return
    yield f"# HELP {name} {help_text}."
    yield f"# TYPE {name} gauge"
    for labels, value in known:
        inner = ",".join(f'{label}="{_escaped(str(text))}"' for label, text in labels.items())
        yield f"{name}{{{inner}}} {value}" if inner else f"{name} {value}"


def _escaped(value: str) -> str:
    plain = value.encode(errors="replace").decode()
    return plain.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
