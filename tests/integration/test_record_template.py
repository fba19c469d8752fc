"""`Template(record=FILE)`: the copies of its clones, each with its line."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import clonal
from clonal.errors import CloneDied, SetupFailed, TemplateDied
from clonal.observe.analyse import Recording, load
from clonal.observe.family import KEEPER, family
from clonal.observe.record import clones, hook, trap
from tests.clone_work import until
from tests.integration.test_record import CLONAL, ROOT, needs_traps

PAGES, PAGE = 512, 4096
buffer = bytearray()
numbers: list[float] = []


def warm() -> None:
    global buffer, numbers
    buffer = bytearray(PAGES * PAGE)
    numbers = [float(i) for i in range(100_000)]


def write(value: int) -> int:
    for at in range(0, len(buffer), PAGE):
        buffer[at] = value
    return value


def read() -> float:
    return sum(numbers)


def write_and(end: str) -> None:
    write(1)
    if end == "exit":
        os._exit(3)
    if end == "raise":
        raise ValueError(end)
    if end == "leave":
        sys.exit(4)
    os.kill(os.getpid(), signal.SIGKILL)


def write_and_tell(fifo: Path) -> None:
    write(1)
    fifo.write_text(str(os.getpid()))  # waits for a reader
    signal.pause()


def pages_of(found: Recording, pid: int) -> Counter[str]:
    """How many each function copied."""
    return Counter(copy.frame.function for copy in found.by_program if copy.pid == pid)


def is_whole(pages: Counter[str]) -> bool:
    """The function also writes to a few pages of its own: its code, its numbers."""
    return 0 <= pages["write"] - PAGES <= 5


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "clones.rec"


@needs_traps
def test_each_clone_is_recorded_to_its_end(path: Path) -> None:
    with clonal.Template(setup=warm, record=path) as template:
        writers = [template.clone(write, 1) for _ in range(3)]
        assert [clone.result() for clone in writers] == [1, 1, 1]
        reader = template.clone(read)
        assert reader.result() == sum(range(100_000))
        pids = [clone.pid for clone in (*writers, reader)]
    found = load(path)
    assert found.status == 0 and found.backend == "sigtrap" and not found.truncated
    assert found.processes.keys() == set(pids), "clones, and not their template"
    assert all(process.ended for process in found.processes.values())
    assert all(is_whole(pages_of(found, pid)) for pid in pids[:3])
    if sys.version_info >= (3, 12):  # PEP 683
        assert pages_of(found, pids[3])["read"] < 5, "immortal objects are read without being copied"


@pytest.mark.newest
@needs_traps
@pytest.mark.parametrize("end", ["exit", "raise", "leave"])
def test_a_clone_that_ends_in_another_way_is_recorded_too(path: Path, end: str) -> None:
    with clonal.Template(setup=warm, record=path, standby=1) as template:
        clone = template.clone(write_and, end)
        with pytest.raises((CloneDied, ValueError, SystemExit)):
            clone.result()
        pid = clone.pid
    assert is_whole(pages_of(load(path), pid))


@pytest.mark.newest
@needs_traps
@pytest.mark.parametrize("standby", [0, 1])
def test_a_killed_clone_is_recorded_to_its_last_fault(path: Path, standby: int) -> None:
    with clonal.Template(setup=warm, record=path, standby=standby) as template:
        killed = template.clone(write_and, "kill")
        with pytest.raises(CloneDied):
            killed.result()
        assert template.clone(write, 2).result() == 2
        assert load(path).status is None, "it goes on"
        assert killed.pid is not None
    found = load(path)
    assert found.status == 0 and found.processes[killed.pid].ended is None
    assert is_whole(pages_of(found, killed.pid))


def keepers(template: int) -> list[int]:
    """The processes that keep the rings of a template's clones."""
    children = Path(f"/proc/{template}/task/{template}/children").read_text().split()
    return [pid for pid in map(int, children) if b"keeping" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.newest
@needs_traps
def test_a_killed_template_leaves_its_recording_and_no_keeper(path: Path) -> None:
    template = clonal.Template(setup=warm, record=path)
    with template:
        clone = template.clone(write, 1)
        assert clone.result() == 1
        (keeper,) = keepers(template.pid)
        ended = os.pidfd_open(keeper)
        os.mkfifo(written := path.with_name("written"))
        killed = template.clone(write_and_tell, written)
        pid = int(written.read_text())
        os.kill(template.pid, signal.SIGKILL)
        with pytest.raises((CloneDied, TemplateDied)):
            killed.result()
    assert select.select([ended], [], [], 60)[0]
    os.close(ended)
    found = load(path)
    assert found.status is None and is_whole(pages_of(found, clone.pid or 0))
    assert is_whole(pages_of(found, pid))


@pytest.mark.newest
@needs_traps
def test_without_its_keeper_clones_are_made_and_recorded(path: Path) -> None:
    with clonal.Template(setup=warm, record=path) as template:
        assert template.clone(write, 1).result() == 1, "the template has settled"
        (keeper,) = keepers(template.pid)
        assert until(lambda: Path(f"/proc/{keeper}/comm").read_text() == f"{KEEPER}\n", 60)
        roles = {member.pid: member.role for member in family(template.pid)}
        assert roles[template.pid] == "template" and roles[keeper] == "process", "it is no clone"
        ended = os.pidfd_open(keeper)
        os.kill(keeper, signal.SIGKILL)
        assert select.select([ended], [], [], 60)[0]
        os.close(ended)
        clone = template.clone(write, 1)
        assert clone.result() == 1
    found = load(path)
    assert found.status == 0 and is_whole(pages_of(found, clone.pid or 0))


@pytest.mark.newest
def test_where_no_keeper_can_be_started_what_is_lost_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.warns(RuntimeWarning, match="/no/such/python: No such file.*the faults of its last 200 ms"):
        assert clones._keeping("unused.rec") is None
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.newest
@needs_traps
def test_a_template_within_what_is_recorded_has_its_clones_recorded(path: Path) -> None:
    program = [sys.executable, "-m", "tests.integration.test_record_template"]
    command = [*CLONAL, "-o", str(path), "--", *program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pid, refusal = done.stdout.splitlines()
    assert is_whole(pages_of(load(path), int(pid)))
    assert "recorded already; leave out `record`" in refusal


@pytest.mark.newest
def test_a_file_that_cannot_be_made_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        clonal.Template(record=tmp_path / "missing" / "file")


@pytest.mark.newest
def test_without_traps_pages_are_counted_and_it_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise trap.CannotRecord("no traps here")

    monkeypatch.setattr(trap, "require", refuse)
    monkeypatch.setattr(hook, "installed", None)
    with pytest.warns(RuntimeWarning, match="no traps here; pages are counted at the end of each clone"):
        assert not clones._traps()


@pytest.mark.newest
def test_a_file_that_is_no_recording_is_not_overwritten(tmp_path: Path) -> None:
    mine = tmp_path / "app.py"
    mine.write_text("important")
    with pytest.raises(FileExistsError, match="is no recording"):
        clonal.Template(record=mine)
    assert mine.read_text() == "important"


def main() -> None:
    warm()
    with clonal.Template.here() as template:
        clone = template.clone(write, 1)
        clone.result()
        print(clone.pid)
    try:
        clonal.Template(record="unused.rec").close()
    except SetupFailed as error:
        print(error.__cause__)
    os.unlink("unused.rec")


if __name__ == "__main__":
    main()
