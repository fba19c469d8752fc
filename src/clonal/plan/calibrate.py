"""Calibration: scenes timed on this machine (calibrate.c), and the costs fitted to them.

Each scene differs from another in one thing, so a cost is a difference divided by a count. Scenes run
interleaved, and of each time the first quartile is taken: other work on the machine only ever adds.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import NamedTuple

from clonal.errors import Error
from clonal.kernel import compiler, machine
from clonal.model.strategies import Work
from clonal.plan import store
from clonal.plan.costs import DEFAULT, Costs, Origin
from clonal.plan.server import Server
from clonal.plan.server import measure as server_of

REPEATS, ROUNDS = 4, 4
NO_HUGE_PAGES = 3
ENTRIES = 512
FORK, ACTION, END = range(3)


class Scene(NamedTuple):
    """The arguments of calibrate.c, in its order."""

    kind: str = "none"
    vmas: int = 1
    span: int = 1
    step: int = 1
    action: str = "none"
    every: int = 1
    children: int = 1

    @property
    def touched(self) -> int:
        """Pages that the action is for."""
        return self.vmas * -(-self.span // (self.step * self.every))


VMAS, PAGES, TABLES = 2000, 32768, 1024  # 128 MiB; 2 GiB of addresses with a page in each table
SCENES = {
    "base": Scene(),
    "vfork": Scene(action="vfork"),
    "exec": Scene(action="exec"),
    "vmas": Scene("untouched", VMAS, 4, 4),
    "file_vmas": Scene("memfd", VMAS // 4, 4, 4),
    "anon_vmas": Scene("anon", VMAS, 4, 4),
    "dense": Scene("anon", 1, PAGES),
    "sparse": Scene("anon", 1, TABLES * ENTRIES, ENTRIES),
    "thp": Scene("thp", 1, PAGES),
    "zero": Scene("none", 1, PAGES // 2, 1, "zero"),
    "zero_read": Scene("none", 1, PAGES // 2, 1, "zeroread"),
    "zero_huge": Scene("none", 1, PAGES, 1, "zerothp"),
    "reuse": Scene("anon", 1, PAGES // 2, 1, "reuse"),
    "copy": Scene("anon", 1, PAGES, 1, "write", 4),
    "copy_all": Scene("anon", 1, PAGES // 2, 1, "write"),
    "copy_file": Scene("memfd", 1, PAGES, 1, "write", 4),
    "map_file": Scene("memfd", 1, PAGES, 1, "read", 16),
    "map_huge": Scene("memfd-thp", 1, PAGES, 1, "read", ENTRIES),
    "split_huge": Scene("thp", 1, PAGES, 1, "write", ENTRIES),
    "map_shared": Scene("shared", 1, PAGES // 2, 1, "write"),
    "wake": Scene(action="wake"),
    "populate": Scene("anon", 1, PAGES // 2, 1, "populate"),
    "copy_page": Scene("anon", 1, PAGES // 2, 1, "copyuser"),
    "zero_page": Scene("none", 1, PAGES // 2, 1, "zerouser"),
}

PER_PAGE = (
    "zero", "zero_read", "reuse", "copy", "copy_file", "map_file", "map_shared", "populate", "wake",
    "copy_page", "zero_page",
)  # fmt: skip


def calibrate(progress: Callable[[str], None] = lambda _what: None, repeats: int = REPEATS) -> Costs:
    """Measures this machine: some seconds, some 300 MB. Raises compiler.NoProgram, Error."""
    facts = machine.machine()
    cores = min(int(facts["cores"] or 1), 16)
    scenes = SCENES | {
        "copy_together": SCENES["copy_all"]._replace(span=PAGES // 4, children=cores),
        "copy_alone": SCENES["copy_all"]._replace(span=PAGES // 4),
        "bandwidth": SCENES["copy_page"]._replace(span=PAGES // 4, children=cores),
    }
    notes = [busy] if (busy := machine.busy()) else []
    times = measure(scenes, progress, repeats)
    where, kernel = store.here()
    if "thp" not in times or "map_huge" not in times:
        notes.append("this kernel gave no huge pages: their costs are the built-in ones")
    found = fit(times, cores, Origin("calibrated", where, kernel, date.today().isoformat(), tuple(notes)))
    progress("calibrating: this interpreter")
    return with_interpreter(found, *look_at_interpreter())


def look_at_interpreter() -> tuple[Server, dict[str, int]]:
    """The interpreter's memory, and what interpreter.py prints. Raises Error."""
    command = [sys.executable, "-m", "clonal.plan.interpreter"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        server = server_of(process.pid) if ready else None
        out, errors = process.communicate("\n")
    if server is None or process.returncode != 0:
        raise Error(f"the calibration cannot look at the interpreter: {errors.strip()[-300:]}")
    return server, json.loads(out)


def with_interpreter(costs: Costs, server: Server, found: Mapping[str, int]) -> Costs:
    """The same costs with what this interpreter adds to them."""
    work = Work(server.vmas, server.anon_vmas, server.small_pages, tables=server.small_tables)
    known = costs.fork_base + costs.price(work, costs.copy) + server.mapped_files * costs.file_vma
    return replace(
        costs,
        python_fork=max(0.0, found["fork"] - known),
        python_faults=found["faults"],
        python_pages=found["pages"],
        python_pages_image=found["pages_image"],
    )


def measure(
    scenes: Mapping[str, Scene], progress: Callable[[str], None], repeats: int
) -> dict[str, tuple[float, float, float]]:
    """The three times of each scene; one that needs huge pages is left out where there are none."""
    samples: dict[str, list[list[float]]] = {name: [] for name in scenes}
    with tempfile.TemporaryDirectory(prefix="clonal-") as folder:
        program = compiler.build("clonal.plan", "calibrate", Path(folder))
        for number in range(repeats):
            for name, scene in scenes.items():
                progress(f"calibrating, round {number + 1} of {repeats}: {name}")
                samples[name] += play(program, scene)
    return {name: first_quartiles(rounds) for name, rounds in samples.items() if rounds}


def play(program: Path, scene: Scene, rounds: int = ROUNDS) -> list[list[float]]:
    """Times one scene: a list of [fork, action, end]; empty without huge pages. The first round, which finds
    cold caches and makes the page tables that later ones reuse, is left out."""
    command = [str(program), *map(str, scene), str(rounds + 1)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == NO_HUGE_PAGES:
        return []
    if done.returncode != 0:
        raise Error(f"the calibration cannot run {' '.join(command[1:])}: {done.stderr.strip()}")
    found: list[list[float]] = json.loads(done.stdout)
    return found[1:]


def first_quartiles(rounds: list[list[float]]) -> tuple[float, float, float]:
    """Of each of the three times."""
    fork, action, end = (statistics.quantiles(times, n=4)[0] for times in zip(*rounds, strict=True))
    return fork, action, end


def fit(times: Mapping[str, tuple[float, float, float]], cores: int, origin: Origin) -> Costs:
    """Costs from the times of scenes."""
    base = times["base"][FORK]
    found = {"fork_base": base, "vfork": times["vfork"][FORK], "exec": times["exec"][END]}
    found |= _per_entry(times, FORK, ("vma", "anon_vma", "pte", "table"))
    found["exit_base"] = times["base"][END]
    of_exit = ("exit_vma", "exit_anon_vma", "exit_pte", "exit_table")
    found |= _per_entry(times, END, of_exit)
    del found["exit_anon_vma"]
    for name, which in (("file_vma", FORK), ("exit_file_vma", END)):
        each = (times["file_vmas"][which] - times["base"][which]) / SCENES["file_vmas"].vmas
        found[name] = each - found["vma" if which == FORK else "exit_vma"]
    for name in (
        "zero",
        "zero_read",
        "reuse",
        "copy",
        "copy_file",
        "map_file",
        "map_shared",
        "populate",
        "wake",
    ):
        found[name] = times[name][ACTION] / SCENES[name].touched
    for name in ("copy_page", "zero_page"):
        found[name] = times[name][ACTION] / SCENES[name].touched
    freed = times["copy_all"][END] - times["base"][END]
    found["exit_page"] = freed / SCENES["copy_all"].touched
    found |= _huge(times, base)
    found["exit_batched"] = _batched(times, found)
    found["bandwidth"] = cores * PAGES // 4 * 4096 / (times["bandwidth"][ACTION] * 1e-9)
    slower = times["copy_together"][ACTION] / times["copy_alone"][ACTION] - 1
    found["contention"] = slower / (cores - 1) if cores > 1 else DEFAULT.contention
    return Costs(**{name: max(0.0, value) for name, value in found.items()}, cores=cores, origin=origin)


def _per_entry(
    times: Mapping[str, tuple[float, float, float]], which: int, names: tuple[str, str, str, str]
) -> dict[str, float]:
    """Per mapping, more for one with private pages, per present page, per page table: from a region with all
    entries of its tables present, and one with a single entry in each."""
    base = times["base"][which]
    vma = (times["vmas"][which] - base) / VMAS
    sparse = (times["sparse"][which] - base) / TABLES  # an entry and a table
    dense = (times["dense"][which] - base) / (PAGES // ENTRIES)  # 512 entries and a table
    pte = max(0.0, (dense - sparse) / (ENTRIES - 1))
    table = max(0.0, sparse - pte)
    tables = VMAS * (SCENES["anon_vmas"].span + 1) / ENTRIES
    anon = (times["anon_vmas"][which] - base - tables * table) / VMAS - vma - pte
    return dict(zip(names, (vma, anon, pte, table), strict=True))


def _batched(times: Mapping[str, tuple[float, float, float]], found: Mapping[str, float]) -> float:
    """Per page of a huge page that was split, as the kernel unmaps them run by run (mm/memory.c
    zap_present_ptes, 6.9)."""
    if "split_huge" not in times:
        return DEFAULT.exit_batched
    ranges = PAGES // ENTRIES
    known = ranges * (found["exit_table"] + found["exit_page"] + 2 * found["exit_pte"])
    return (times["split_huge"][END] - times["base"][END] - known) / (ranges * (ENTRIES - 1))


def _huge(times: Mapping[str, tuple[float, float, float]], base: float) -> dict[str, float]:
    found = {}
    if "thp" in times:
        found["thp"] = (times["thp"][FORK] - base) / (PAGES // ENTRIES)
    for name in ("zero_huge", "map_huge", "split_huge"):
        if name in times:
            found[name] = times[name][ACTION] / (PAGES // ENTRIES)
    return found
