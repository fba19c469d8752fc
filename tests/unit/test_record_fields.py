"""What a recording may hold: of a chunk whose JSON is not what it should be, nothing is believed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clonal.cli.main import main
from clonal.observe.analyse import load
from clonal.observe.record.fields import FIELDS, check
from clonal.observe.record.file import BadRecording, Chunk, Kind, Reader, packed
from tests.recordings import shop

pytestmark = pytest.mark.newest
WRONG = (None, -1 << 40, 1.5, float("nan"), True, "x", [[None]], [[[1, "f", 1]]], {"a": [1]}, {"memory": "x"})


def with_changed(chunks: list[Chunk], number: int, text: bytes) -> bytes:
    """The recording, one chunk with another JSON."""
    return b"".join(
        packed(each.kind, each.pid, text if at == number else json.dumps(each.data).encode(), each.records)
        for at, each in enumerate(chunks)
    )


def wrong(kind: Kind, data: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name of a field, and the JSON with that alone as it must not be."""
    for name, test in FIELDS[kind].items():
        for value in WRONG:
            if name in data and not test(value):
                yield name, data | {name: value}


@pytest.fixture
def chunks(tmp_path: Path) -> list[Chunk]:
    found = list(Reader(shop(tmp_path)))
    assert {each.kind for each in found} == set(Kind) - {Kind.HOOKED}
    return found


def test_what_is_written_is_what_may_stand_there(chunks: list[Chunk]) -> None:
    for each in chunks:
        check(each.kind, each.data)


def test_a_field_of_the_wrong_kind_costs_its_chunk_alone(chunks: list[Chunk], tmp_path: Path) -> None:
    path, whole = tmp_path / "changed", len(load(tmp_path / "shop.clonal").copies)
    tried = 0
    for kind in Kind:
        number = next((at for at, each in enumerate(chunks) if each.kind is kind), None)
        if number is None:
            continue
        for name, data in wrong(kind, chunks[number].data):
            path.write_bytes(with_changed(chunks, number, json.dumps(data).encode()))
            found = load(path)
            assert found.unreadable == 1, (kind, name)
            assert len(found.copies) == whole - len(chunks[number].records) // 40, (kind, name)
            tried += 1
    assert tried > 100


@pytest.mark.parametrize("text", [b"", b"\xff", b"[]", b"7", b"{", b"[" * 100_000, b"null"])
def test_a_chunk_without_json_costs_itself_alone(
    text: bytes, chunks: list[Chunk], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "changed"
    for number in (0, 2, len(chunks) - 1):
        path.write_bytes(with_changed(chunks, number, text))
        for view in ("--tree", "--table", "--source", "--json", "--folded"):
            assert main(["report", str(path), view]) == 0
        assert load(path).unreadable == 1
    assert "Traceback" not in capsys.readouterr().err


def test_a_recording_of_nothing_but_such_chunks_has_no_beginning(tmp_path: Path) -> None:
    path = tmp_path / "r"
    path.write_bytes(packed(Kind.BEGIN, 0, b'{"command": 1}') + packed(Kind.PROCESS, 1, b"[]"))
    with pytest.raises(BadRecording, match="no beginning"):
        load(path)
