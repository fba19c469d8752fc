"""What the kernel charges for each thing that forking and writing do: the cost model's constants."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from clonal.errors import Error
from clonal.model.strategies import Work
from clonal.report.words import BadValue

SCHEMA = 1


class BadCosts(Error):
    """A file of costs that is none; delete it or calibrate again."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}; run clonal plan --calibrate", path=path, why=why)


@dataclass(frozen=True)
class Origin:
    """Where costs come from: `kind` is "calibrated" or "built-in default", `machine` and `kernel` say of
    what."""

    kind: str
    machine: str
    kernel: str
    date: str = ""
    notes: tuple[str, ...] = ()

    def sentence(self) -> str:
        """In one line, for every output."""
        where = f"{self.machine}, Linux {self.kernel}"
        if self.kind == "calibrated":
            return f"costs calibrated on {where}, {self.date}"
        return f"costs: built-in default, from {where}; `clonal plan --calibrate` measures this machine's"


@dataclass(frozen=True)
class Costs:
    """Nanoseconds each, but for the last four. The defaults are those of one virtual machine.

    A fork costs `fork_base`, a `vma` for each mapping, `anon_vma` more where something was written
    privately, and of those mappings `pte` for each present page, `table` for each page table of 512, `thp`
    for each huge page.
    """

    fork_base: float = 46_000
    vfork: float = 15_000
    exec: float = 480_000  # until a minimal program has begun and ended
    vma: float = 400
    file_vma: float = 400  # more for a mapping of a file
    anon_vma: float = 550
    pte: float = 66
    table: float = 1_500
    thp: float = 430

    zero: float = 1_300  # faults, in all: first write of anonymous memory
    zero_read: float = 610
    zero_huge: float = 95_000  # of 2 MiB
    reuse: float = 680
    copy: float = 2_000
    copy_file: float = 1_900  # first write of a page of a private file mapping or an image
    map_file: float = 3_300  # read of a file: 16 pages are mapped
    map_shared: float = 900  # first write of a page of shared memory
    map_huge: float = 1_400  # read of an image in huge pages: 512 pages are mapped
    split_huge: float = 13_000  # first write to a shared huge page: it is split, 4 KiB are copied
    populate: float = 1_900  # a page copied by MADV_POPULATE_WRITE

    copy_page: float = 500  # 4 KiB copied without a fault
    zero_page: float = 90  # 4 KiB cleared

    wake: float = 6_000  # one process wakes another

    exit_base: float = 47_000
    exit_vma: float = 300
    exit_file_vma: float = 300  # more for a mapping of a file
    exit_pte: float = 80  # a shared page unmapped
    exit_batched: float = 10  # the same of a huge page that was split, where its neighbours are unmapped too
    exit_table: float = 400
    exit_page: float = 280  # a private page unmapped and freed

    python_fork: float = 60_000  # what os.fork takes beyond fork: handlers before and after it
    python_faults: float = 20  # that the parent has in it, each of another page
    python_pages: float = 250  # pages that a forked Python process writes whatever it does
    python_pages_image: float = 175  # the same after a freeze

    bandwidth: float = 14e9  # bytes per second that all cores together copy
    cores: int = 2  # cores it was measured with
    contention: float = 0.05  # how much longer a fault takes for each further core that faults
    remote: float = 1.6  # how much longer a page of another node takes to read

    origin: Origin = field(default=Origin("built-in default", "2 × AMD EPYC (virtual)", "6.18"))

    def __post_init__(self) -> None:
        for name in NAMES:
            value, positive = getattr(self, name), name in ("bandwidth", "cores")
            good = (
                isinstance(value, (int, float)) and 0 <= value < float("inf") and not (positive and not value)
            )
            if not good:
                wanted = "more than 0" if positive else "0 or more"
                raise BadValue(f"the cost {name} is {value!r}, but must be a number, {wanted}")

    def price(self, work: Work, copy: float, trapped: bool = True) -> float:
        """Nanoseconds that this work takes, a page copied at `copy`. `trapped`: pages are copied by the
        handler of a fault; faults that neither copied, zero-filled nor reused a page mapped one."""
        faulted = work.zeroed + work.reused + (work.copied if trapped else 0)
        mapped = max(0, work.faults - faulted)
        forking = (
            work.vmas * self.vma
            + work.copied_vmas * self.anon_vma
            + work.entries * self.pte
            + work.tables * self.table
            + (work.huge + work.linked) * self.thp
        )
        split = work.split * max(0.0, self.split_huge - self.copy)
        return (
            forking + split + work.copied * copy + work.zeroed * self.zero + work.reused * self.reuse
            + mapped * self.map_file
        )  # fmt: skip

    def replaced(self, changes: dict[str, float]) -> Costs:
        """The same but for some of them. Raises BadValue for what cannot be."""
        for name in changes:
            if name not in NAMES:
                raise BadValue(f"there is no cost {name!r}; there are {', '.join(NAMES)}")
        note = "as given: " + ", ".join(f"{name}={value:.6g}" for name, value in changes.items())
        origin = replace(self.origin, notes=(*self.origin.notes, note)) if changes else self.origin
        return replace(self, origin=origin, **changes)  # type: ignore[arg-type]

    def to_json(self) -> dict[str, Any]:
        """As it is stored and printed."""
        return {"schema": SCHEMA} | asdict(self)

    @staticmethod
    def from_json(data: Any, path: str) -> Costs:
        """What to_json made. Raises BadCosts."""
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise BadCosts(path, "was not written by this version")
        try:
            origin = Origin(**(data["origin"] | {"notes": tuple(data["origin"]["notes"])}))
            return Costs(**{name: data[name] for name in NAMES}, origin=origin)
        except (KeyError, TypeError, Error) as error:
            raise BadCosts(path, f"is damaged ({error})") from None


NAMES: tuple[str, ...] = tuple(each.name for each in fields(Costs) if each.name != "origin")
DEFAULT = Costs()
