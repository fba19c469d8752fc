"""Costs: fitted to times, stored, found again, or given."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from clonal.errors import Error
from clonal.model.strategies import Work
from clonal.plan import calibrate, store
from clonal.plan.calibrate import ENTRIES, PAGES, SCENES, TABLES, VMAS, fit, with_interpreter
from clonal.plan.costs import DEFAULT, NAMES, BadCosts, Costs, Origin
from clonal.plan.server import Server
from clonal.report.words import parse_share, parse_size, parse_time

TRUE = replace(
    DEFAULT,
    **{name: getattr(DEFAULT, name) * 1.25 for name in NAMES if name not in ("cores", "remote")},
)
FITTED = set(NAMES) - {
    "remote",
    "cores",
    "python_fork",
    "python_faults",
    "python_pages",
    "python_pages_image",
}


def times_of(costs: Costs) -> dict[str, tuple[float, float, float]]:
    """What the scenes of a machine with these costs would take, [fork, action, end]."""
    span = SCENES["anon_vmas"].span + 1

    def both(vmas: int, files: int, anon: int, entries: int, tables: float) -> tuple[float, float]:
        fork = vmas * costs.vma + files * costs.file_vma + anon * costs.anon_vma + entries * costs.pte
        end = vmas * costs.exit_vma + files * costs.exit_file_vma + entries * costs.exit_pte
        return fork + tables * costs.table, end + tables * costs.exit_table

    shapes = {
        "base": (0, 0, 0, 0, 0.0),
        "vmas": (VMAS, 0, 0, 0, 0.0),
        "file_vmas": (SCENES["file_vmas"].vmas, SCENES["file_vmas"].vmas, 0, 0, 0.0),
        "anon_vmas": (VMAS, 0, VMAS, VMAS, VMAS * span / ENTRIES),
        "dense": (0, 0, 0, PAGES, PAGES / ENTRIES),
        "sparse": (0, 0, 0, TABLES, TABLES),
    }
    made = {}
    for name, shape in shapes.items():
        fork, end = both(*shape)
        made[name] = (costs.fork_base + fork, 0.0, costs.exit_base + end)
    for name in calibrate.PER_PAGE:
        made[name] = (0.0, getattr(costs, name) * SCENES[name].touched, 0.0)
    ranges = PAGES // ENTRIES
    made["vfork"] = (costs.vfork, 0.0, 0.0)
    made["exec"] = (0.0, 0.0, costs.exec)
    made["thp"] = (costs.fork_base + ranges * costs.thp, 0.0, 0.0)
    split_end = ranges * (costs.exit_table + costs.exit_page + 2 * costs.exit_pte + 511 * costs.exit_batched)
    for name in ("zero_huge", "map_huge", "split_huge"):
        made[name] = (0.0, getattr(costs, name) * ranges, costs.exit_base + split_end)
    made["copy_all"] = (0.0, 0.0, costs.exit_base + costs.exit_page * SCENES["copy_all"].touched)
    made["bandwidth"] = (0.0, 2 * PAGES // 4 * 4096 / costs.bandwidth * 1e9, 0.0)
    made["copy_alone"], made["copy_together"] = (0.0, 1.0, 0.0), (0.0, 1.0 + costs.contention, 0.0)
    return made


def test_the_costs_of_a_machine_are_found_from_its_times() -> None:
    found = fit(times_of(TRUE), 2, DEFAULT.origin)
    for name in sorted(FITTED):
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name), rel=0.02), name


def test_without_huge_pages_their_costs_are_the_defaults() -> None:
    times = times_of(TRUE)
    for name in ("thp", "zero_huge", "map_huge", "split_huge"):
        del times[name]
    found = fit(times, 2, DEFAULT.origin)
    assert (found.thp, found.split_huge, found.exit_batched) == (
        DEFAULT.thp, DEFAULT.split_huge, DEFAULT.exit_batched,
    )  # fmt: skip


def test_an_interpreter_costs_what_its_fork_takes_beyond_what_is_known() -> None:
    server = replace(Server.of(1 << 20, 0), file_vmas=0)
    work = Work(server.vmas, server.anon_vmas, server.small_pages, tables=server.small_tables)
    known = TRUE.fork_base + TRUE.price(work, TRUE.copy)
    found = {"fork": round(known + 5000), "faults": 7, "pages": 11, "pages_image": 13}
    made = with_interpreter(TRUE, server, found)
    assert made.python_fork == pytest.approx(5000, abs=1)
    assert (made.python_faults, made.python_pages, made.python_pages_image) == (7, 11, 13)


def test_a_scene_runs_on_this_kernel(tmp_path: Path) -> None:
    from clonal.kernel import compiler

    program = compiler.build("clonal.plan", "calibrate", tmp_path)
    rounds = calibrate.play(program, SCENES["copy"]._replace(span=64), rounds=2)
    assert len(rounds) == 2
    assert all(len(times) == 3 and min(times) > 0 for times in rounds)


def test_stored_costs_are_found_again_and_only_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert store.load() is DEFAULT
    here = replace(TRUE, origin=Origin("calibrated", *store.here(), "2026-01-01", ("a note",)))
    assert store.save(here) == tmp_path / "clonal" / "costs.json"
    assert store.load() == here
    store.save(replace(here, origin=here.origin.__class__("calibrated", "elsewhere", "1.0")))
    assert store.load() is DEFAULT


@pytest.mark.parametrize("content", ["", "{}", '{"schema": 99}', "[1]", '{"schema": 1, "origin": {}}'])
def test_a_damaged_file_of_costs_says_what_to_do(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store.path().parent.mkdir()
    store.path().write_text(content)
    with pytest.raises(BadCosts, match="run clonal plan --calibrate"):
        store.load()


def test_costs_survive_json() -> None:
    assert Costs.from_json(json.loads(json.dumps(TRUE.to_json())), "file") == TRUE


def test_given_costs_are_named_in_what_the_output_says_of_them() -> None:
    made = DEFAULT.replaced({"copy": 5.0})
    assert made.copy == 5.0
    assert made.origin.notes == ("as given: copy=5",)


@pytest.mark.parametrize("changes", [{"coppy": 1.0}, {"copy": -1.0}, {"copy": float("nan")}, {"cores": 0.0}])
def test_costs_that_cannot_be_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(Error):
        DEFAULT.replaced(changes)


@pytest.mark.parametrize(
    ("text", "value"),
    [("5%", 0.05), ("0.5%", 0.005), (".25", 0.25), ("100%", 1.0), ("0", 0.0), ("5 %", 0.05)],
)
def test_shares_are_read(text: str, value: float) -> None:
    assert parse_share(text, "--written") == pytest.approx(value)


@pytest.mark.parametrize(("text", "value"), [("200ms", 0.2), ("30s", 30.0), ("5m", 300.0), ("2h", 7200.0)])
def test_times_are_read(text: str, value: float) -> None:
    assert parse_time(text, "--lifetime") == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "five", "-1", "1e3", "nan", "101%", "5%%"])
def test_what_is_no_share_time_or_size_is_refused_with_the_option(text: str) -> None:
    for parse in (parse_share, parse_time, parse_size):
        if parse is parse_time and text == "101%":
            continue
        with pytest.raises(Error, match=r"^--option: "):
            parse(text, "--option")
