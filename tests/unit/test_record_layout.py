"""What is read of other interpreters is where their headers say."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from clonal.observe.record.layout import LAYOUTS, layout_of, spelled
from clonal.observe.record.remote import decode_lines
from tests.pythons import include, pythons

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.newest
@pytest.mark.parametrize("version", pythons())
def test_the_layout_is_that_of_the_headers(version: str, tmp_path: Path) -> None:
    folder, program = include(pythons()[version]), tmp_path / "layout"
    if not Path(folder, "internal", "pycore_frame.h").exists():
        pytest.skip(f"the headers of Python {version} are not installed")
    source = str(ROOT / "tests" / "native" / "layout.c")
    subprocess.run(["cc", f"-I{folder}", source, "-o", str(program)], check=True)
    lines = subprocess.run([program], capture_output=True, text=True, check=True).stdout.splitlines()
    major, minor = map(int, version.split("."))
    assert LAYOUTS[major, minor]._asdict() == {name: int(at) for name, at in map(str.split, lines)}


@pytest.mark.newest
def test_a_version_that_is_not_known_has_no_layout() -> None:
    assert layout_of(0x030D00F0) == LAYOUTS[3, 13]
    assert layout_of(0x030A00F0) is None
    assert layout_of(0x04000000) is None
    assert spelled(0x030B02F0) == "3.11.2"


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)


def test_lines_are_those_that_the_interpreter_tells() -> None:
    source = Path(pytest.__file__).parent.joinpath("..", "_pytest", "python.py").read_text()
    found = 0
    for code in codes(compile(source, "python.py", "exec")):
        starts, lines = decode_lines(code.co_linetable, code.co_firstlineno)
        table = dict(zip(starts, lines, strict=True))
        told = {start // 2: line or 0 for start, _, line in code.co_lines()}
        assert {start: table[start] for start in told} == told
        found += len(told)
    assert found > 1000, sys.version
