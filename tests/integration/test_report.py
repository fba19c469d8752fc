"""`clonal report` from its command line: its views and files, and one line for each bad input."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from clonal.cli.main import main
from clonal.observe.analyse import FAULT, load
from clonal.observe.record.file import BadRecording, Kind, Reader, Writer, packed
from clonal.observe.report.count import tally
from clonal.observe.report.summary import summary
from tests.recordings import Recorded, shop
from tests.support import run_script

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shop(tmp_path_factory.mktemp("shop"))


def report(capsys: Captured, *arguments: object) -> tuple[int, str, str]:
    status = main(["report", *map(str, arguments)])
    return status, *capsys.readouterr()


# Views.


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ([], "100 pages copied: 400 KiB"),
        (["--tree"], "├ <module>  app.py:22"),
        (["--table"], "kind of memory"),
        (["--source"], "found += len(item)"),
        (["--source", "Shop.patch"], "buffer[0] = 1"),
        (["--folded"], "malloc (libc.so.6);[allocator metadata] 4"),
        (["--pid", "101"], "70 pages copied"),
        (["--cause", "data"], "10 pages copied"),
        (["--pid", "101", "--pid", "102"], "90 pages copied"),
    ],
)
def test_each_view_is_printed(arguments: list[str], shown: str, path: Path, capsys: Captured) -> None:
    status, out, err = report(capsys, path, *arguments)
    assert (status, err) == (0, "") and shown in out


def test_the_difference_of_two_recordings(path: Path, tmp_path: Path, capsys: Captured) -> None:
    more = shop(tmp_path, "more.clonal", scale=2)
    assert "functions that grew" in report(capsys, path, "--diff", more)[1]
    told = json.loads(report(capsys, path, "--diff", more, "--json")[1])
    assert told["after"] == {"file": str(more), "pages": 140}
    assert "no page has changed its function" in report(capsys, path, "--diff", path)[1]


def test_the_json_is_printed_alone(path: Path, capsys: Captured) -> None:
    status, out, _ = report(capsys, path, "--json")
    assert status == 0 and json.loads(out)["pages"]["copied"] == 100


def test_files_are_written_together_and_nothing_is_printed(
    path: Path, tmp_path: Path, capsys: Captured
) -> None:
    page, profile = tmp_path / "flame.html", tmp_path / "profile.json"
    status, out, _ = report(capsys, path, "--flamegraph", page, "--speedscope", profile)
    assert (status, out) == (0, "")
    assert page.read_text().startswith("<!doctype html>")
    assert json.loads(profile.read_text())["shared"]["frames"]


# Bad input.


def refused(capsys: Captured, *arguments: object) -> str:
    """The one line that a mistake is told in."""
    status, out, err = report(capsys, *arguments)
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    return line


def test_a_file_that_is_not_there(tmp_path: Path, capsys: Captured) -> None:
    assert refused(capsys, tmp_path / "no").endswith("no: No such file or directory")
    assert refused(capsys, tmp_path).endswith(": Is a directory")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "this file is empty: nothing was recorded"),
        (b"CLR2" + bytes(100), "another version of clonal made this recording"),
        (b"\x7fELF" + bytes(100), "this is no recording of clonal record"),
        (b"CL", "this is no recording of clonal record"),
        (b"CLR1", "this recording has no beginning"),
        (os.urandom(5000), "this is no recording of clonal record"),
    ],
)
def test_a_foreign_file(data: bytes, why: str, tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "foreign"
    file.write_bytes(data)
    assert why in refused(capsys, file)


def test_a_file_that_may_not_be_read() -> None:
    script = """
        from pathlib import Path
        from clonal.cli.main import main

        Path("secret").touch(0)
        raise SystemExit(main(["report", "secret"]))
    """
    result = run_script(script, user="nobody", check=False)
    assert (result.returncode, result.stdout, result.stderr) == (2, "", "clonal: secret: Permission denied\n")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--flamegraph", "x.htm"], "give a file whose name ends in .html"),
        (["--speedscope", "/nowhere/x.json"], "there is no folder /nowhere to write to"),
        (["--pid", "7"], "--pid 7: there is no such process in"),
        (["--pid", "seven"], "'seven' is no process id"),
        (["--cause", "weather"], "invalid choice"),
        (["--source", "nobody"], "no function or file of that name copied a page"),
        (["--tree", "--table"], "not allowed with"),
        (["--json", "--tree"], "--json has everything"),
        (["--diff", "/nowhere"], "/nowhere: No such file or directory"),
    ],
)
def test_a_wrong_command_line(arguments: list[str], why: str, path: Path, capsys: Captured) -> None:
    assert why in refused(capsys, path, *arguments)


def test_the_recording_is_not_overwritten(path: Path, tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "r.json"
    file.write_bytes(path.read_bytes())
    assert "is the recording itself" in refused(capsys, file, "--speedscope", file)


def test_a_truncated_recording_is_read_up_to_its_last_whole_chunk(
    path: Path, tmp_path: Path, capsys: Captured
) -> None:
    data = path.read_bytes()
    cut = tmp_path / "cut"
    pages = []
    for length in range(4, len(data), 61):
        cut.write_bytes(data[:length])
        try:
            found = load(cut)
        except BadRecording as error:
            assert error.why == "this recording has no beginning"
            continue
        pages.append(tally(found).copied)
        assert list(summary(tally(found), 80))
    assert pages == sorted(pages) and pages[0] == 0 and pages[-1] == 100
    status, out, _ = report(capsys, cut)
    assert status == 0 and "The file is cut short or damaged" in out and "100 pages copied" in out


def test_a_broken_recording_never_breaks_the_report(path: Path, tmp_path: Path) -> None:
    data, chance, broken = path.read_bytes(), random.Random(4), tmp_path / "broken"
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(chance.randrange(1, 4)):
            changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        broken.write_bytes(changed)
        try:
            found = load(broken)
        except BadRecording:
            continue
        assert tally(found).copied <= 100 and list(summary(tally(found), 80))


def chunks(data: bytes) -> list[bytes]:
    """The recording, taken apart."""
    starts = [at.start() for at in re.finditer(rb"CLR1", data)]
    return [data[start:end] for start, end in pairwise([*starts, len(data)])]


def test_what_is_damaged_costs_its_chunk_alone(path: Path, tmp_path: Path) -> None:
    """Each chunk in turn, in its header, its JSON or its end: all others are read, and no line changes."""
    parts, broken = chunks(path.read_bytes()), tmp_path / "broken"
    rows = tally(load(path)).rows
    for number, part in enumerate(parts):
        for at in (1, 6, 13, 22, 40, len(part) - 1)[not number :]:  # without its MAGIC the file is none
            changed = bytearray(part)
            changed[at] ^= 0x10
            broken.write_bytes(b"".join([*parts[:number], bytes(changed), *parts[number + 1 :]]))
            reader = Reader(broken)
            assert len(list(reader)) == len(parts) - 1
            assert (reader.damaged, reader.truncated) == ((0, True) if part is parts[-1] else (1, False))
            found = tally(load(broken))
            assert found.rows <= rows and found.copied >= 100 - 40
            assert list(summary(found, 80))


def test_a_missing_chunk_is_counted_with_its_faults(path: Path, tmp_path: Path, capsys: Captured) -> None:
    parts, broken = chunks(path.read_bytes()), tmp_path / "broken"
    parts[3] = parts[3][:-100]  # the first faults of a process that has more
    broken.write_bytes(b"".join(parts))
    found = load(broken)
    assert (found.damaged, found.missed, tally(found).copied) == (1, 40, 60)
    status, out, _ = report(capsys, broken)
    assert status == 0
    assert "damaged in one place: what stood there, 40 faults, is not here" in " ".join(out.split())
    parts[0] = parts[0][:60]
    broken.write_bytes(b"".join(parts))
    _, out, _ = report(capsys, broken)
    assert "command, machine and backend are not known" in out and "60 pages copied" in out


def test_chunks_of_another_version_are_counted_and_the_others_read(tmp_path: Path, capsys: Captured) -> None:
    recorded = Recorded(tmp_path / "r")
    recorded.process(1)
    recorded.copies(1, 3, (("f", "/srv/app.py", 1),))
    file = recorded.close()
    writer = Writer(str(file))
    unknown = FAULT.pack(0, 0, 0, 0, 0, 0, 77, 0, 0, 0)  # a cause that is not known here
    writer.write(
        Kind.FAULTS,
        {"stacks": [], "types": [], "symbols": {}, "maps": None, "lost": 0, "fresh": 0},
        unknown,
        1,
    )
    writer.write(Kind.END, {"what": "is this"}, pid=1)
    writer.write(Kind.PROCESS, {}, pid=9)
    with file.open("ab") as end:
        end.write(packed(9, 1, b"{}"))
    _, out, _ = report(capsys, file)
    assert (
        "3 pages copied" in out
        and "4 chunks could not be read: damaged, or of another version of clonal" in out
    )
    writer.close()


# What was really recorded.

FORKS = """
import os, sys
from pathlib import Path
from clonal.observe.record.run import record

Path("program.py").write_text('''
import os

class Item:
    __slots__ = ("price",)

    def __init__(self):
        self.price = 1

items = [Item() for _ in range(30_000)]

def total():
    return sum(item.price for item in items)

if os.fork() == 0:
    total()
    os._exit(0)
os.wait()
''')
print(record([sys.executable, "program.py"], Path("out.clonal")))
os.execv(sys.executable, [sys.executable, "-m", "clonal.cli.main", "report", "out.clonal", "--json"])
"""


def test_a_real_recording_tells_the_line_that_copied_most() -> None:
    status, _, told = run_script(FORKS).stdout.partition("\n")
    found = json.loads(told)
    if not found["processes"] or found["processes"][-1]["failed"]:
        pytest.skip(f"faults cannot be recorded here: {found['processes']}")
    assert status == "0"
    most = found["locations"][0]
    assert (most["function"], most["line"]) == ("total.<locals>.<genexpr>", 13)
    assert (most["cause"], most["type"], most["category"]) == ("reference count", "Item", "python objects")
    assert sum(each["pages"] for each in found["locations"]) == found["pages"]["copied"] > most["pages"] > 300


def test_a_terminal_without_the_letters_gets_others_like_them(path: Path) -> None:
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    words = [sys.executable, "-m", "clonal.cli.main", "report", str(path)]
    for view in ([], ["--tree"]):
        told = subprocess.run([*words, *view], capture_output=True, text=True, env=env, timeout=30)
        assert told.returncode == 0 and told.stdout.isascii() and "?" not in told.stdout
    assert "####" in subprocess.run(words, capture_output=True, text=True, env=env).stdout
    words[-1] += "ö"
    told = subprocess.run(words, capture_output=True, text=True, env=env, timeout=30)
    assert told.stderr.endswith("shop.clonal\\xf6: No such file or directory\n")


def test_a_reader_that_ends_early_is_no_error(path: Path) -> None:
    command = f"{sys.executable} -m clonal.cli.main report {path} --table | head -n 1"
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
    assert "kind of memory" in result.stdout and result.stderr == ""
