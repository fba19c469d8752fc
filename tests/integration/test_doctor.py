"""`clonal doctor`: one fault, one finding, and its remedy gains what was predicted."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clonal.observe.analyse import load
from tests.integration import doctor_programs as programs
from tests.integration.test_record import needs_traps
from tests.recordings import shop

ROOT = Path(__file__).resolve().parent.parent.parent
CLONAL = [sys.executable, "-m", "clonal.cli.main"]
PAGE = 4096
STARTS_SESSION = "start_new_session=True"
needs_immortal = pytest.mark.skipif(sys.version_info < (3, 12), reason="no immortal objects before 3.12")


def clonal(*arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    command = [*CLONAL, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stderr + done.stdout
    return done


def recorded(folder: Path, name: str, program: str) -> tuple[Path, int]:
    """The recording of a program, and the bytes that it copied."""
    script, path = folder / f"{name}.py", folder / f"{name}.rec"
    script.write_text(program)
    clonal("record", "-o", path, "--", sys.executable, script)
    return path, len(load(path).by_program) * PAGE


def findings(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(clonal("doctor", "--json", "--recording", path).stdout)[
        "findings"
    ]
    return found


@needs_traps
@pytest.mark.parametrize(
    ("name", "program"),
    [
        pytest.param("reference-counts", programs.REFERENCE_COUNTS, marks=needs_immortal),
        pytest.param("reference-counts", programs.MULTIPROCESSING, marks=needs_immortal),
        ("gc-headers", programs.GC),
        pytest.param("allocator", programs.ALLOCATOR, marks=needs_immortal),
        pytest.param("allocator", programs.ALLOCATOR_STRINGS, marks=needs_immortal),
        ("imports", programs.IMPORTS),
        ("exec", programs.EXEC),
        ("shared-tables", programs.TABLES),
    ],
)
def test_the_remedy_as_it_stands_gains_what_was_predicted(name: str, program: str, tmp_path: Path) -> None:
    path, before = recorded(tmp_path, "before", program)
    first, *_ = found = findings(path)
    assert first["finding"] == name, found
    treated = programs.treated(program, first["remedy"]["lines"])
    path, after = recorded(tmp_path, "after", treated)
    assert abs((before - after) / first["gain_bytes"] - 1) <= 0.25, (before, after, first)
    assert name not in {each["finding"] for each in findings(path)}


def test_a_snapshot_tells_what_was_copied_and_not_why(tmp_path: Path) -> None:
    script, path = tmp_path / "program.py", tmp_path / "snapshot.rec"
    script.write_text(programs.REFERENCE_COUNTS)
    clonal("record", "--backend", "snapshot", "-o", path, "--", sys.executable, script)
    [found] = findings(path)
    assert found["finding"] == "objects-copied" and "not tell why" in found["evidence"][1]["text"]


@needs_traps
def test_a_child_that_subprocess_forks_for_preexec_fn(tmp_path: Path) -> None:
    path, before = recorded(tmp_path, "before", programs.PREEXEC)
    [found] = findings(path)
    assert found["finding"] == "exec" and "preexec_fn" in found["remedy"]["where"]
    assert found["gain_bytes"] == before
    _, after = recorded(tmp_path, "after", programs.PREEXEC.replace("preexec_fn=os.setsid", STARTS_SESSION))
    assert STARTS_SESSION in found["remedy"]["lines"][0] and after == 0


def test_a_recording_that_is_cut_short_is_looked_at_all_the_same(tmp_path: Path) -> None:
    path = shop(tmp_path)
    path.write_bytes(path.read_bytes()[:-10])
    done = clonal("doctor", "--recording", path, status=2)
    assert "nothing to change" in done.stdout and "cut short" in done.stderr


# Large: a worker copies 1 MiB of what is saved for other causes then, and one may get all the requests.
APP = """
ITEMS = [{"id": number} for number in range(200_000)]
def app(environ, start_response):
    found = sum(item["id"] for item in ITEMS)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


def served(folder: Path, name: str) -> tuple[Path, int]:
    """The recording of gunicorn with the app, after some requests, and the bytes that were copied."""
    path = folder / f"{name}.rec"
    gunicorn = [
        sys.executable,
        "-m",
        "gunicorn",
        "--preload",
        "-w",
        "2",
        "-b",
        f"unix:{folder}/socket",
        "app:app",
    ]
    process = subprocess.Popen(
        [*CLONAL, "record", "-o", path, "--", *gunicorn], cwd=folder, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        log = iter(process.stderr.readline, "")
        assert any("Listening at" in line for line in log)
        for _ in range(8):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(f"{folder}/socket")
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                while client.recv(4096):
                    pass
    finally:
        process.terminate()
        process.communicate(timeout=30)
    return path, len(load(path).by_program) * PAGE


@needs_traps
@needs_immortal
def test_gunicorn_is_treated_in_its_configuration(tmp_path: Path) -> None:
    pytest.importorskip("gunicorn")
    (tmp_path / "app.py").write_text(APP)
    path, before = served(tmp_path, "before")
    first, *_ = findings(path)
    assert first["finding"] == "reference-counts" and first["remedy"]["where"] == "in gunicorn.conf.py"
    (tmp_path / "gunicorn.conf.py").write_text("\n".join(first["remedy"]["lines"]))
    path, after = served(tmp_path, "after")
    assert abs((before - after) / first["gain_bytes"] - 1) <= 0.25, (before, after, first)
    assert findings(path) == []
