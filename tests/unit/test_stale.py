"""A changed file is noticed, whatever kind of module it was loaded from, and cheaply."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from clonal.clone import stale
from clonal.clone.stale import Snapshot


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module of our own, loaded."""
    path = tmp_path / "clonal_stale_example.py"
    path.write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("clonal_stale_example")
    yield path
    del sys.modules["clonal_stale_example"]


def fresh(snapshot: Snapshot) -> list[str]:
    """What has changed, asked as if for the first time."""
    return pickle.loads(pickle.dumps(snapshot)).changed()


def test_nothing_has_changed_at_first(module: Path) -> None:
    snapshot = Snapshot.take()
    assert str(module) in snapshot.files
    assert snapshot.changed() == []


def test_an_edited_file_is_named(module: Path) -> None:
    snapshot = Snapshot.take()
    module.write_text("x = 22\n")
    assert fresh(snapshot) == [str(module)]


def test_an_edit_of_the_same_size_is_named(module: Path) -> None:
    snapshot = Snapshot.take()
    module.write_text("x = 2\n")
    os.utime(module, ns=(1, snapshot.files[str(module)].mtime_ns + 1))
    assert fresh(snapshot) == [str(module)]


def test_a_replaced_file_is_named_though_its_time_and_size_are_the_same(module: Path) -> None:
    snapshot = Snapshot.take()
    other = module.with_suffix(".new")
    other.write_text("x = 3\n")
    stamp = snapshot.files[str(module)]
    os.utime(other, ns=(stamp.mtime_ns, stamp.mtime_ns))
    other.replace(module)
    assert fresh(snapshot) == [str(module)]


def test_a_deleted_file_is_named(module: Path) -> None:
    snapshot = Snapshot.take()
    module.unlink()
    assert fresh(snapshot) == [str(module)]


def test_the_setup_file_and_relative_paths_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("setup.py").write_text("")
    snapshot = Snapshot.take(extra=["setup.py"])
    monkeypatch.chdir("/")
    (tmp_path / "setup.py").write_text("x")
    assert fresh(snapshot) == [str(tmp_path / "setup.py")]


def test_a_module_in_an_archive_counts_as_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("clonal_zipped_example.py", "x = 1\n")
    monkeypatch.syspath_prepend(str(archive))
    importlib.import_module("clonal_zipped_example")
    try:
        snapshot = Snapshot.take()
        assert str(archive) in snapshot.files
    finally:
        del sys.modules["clonal_zipped_example"]


def test_libraries_extensions_and_the_main_script_are_watched() -> None:
    files = Snapshot.take().files
    assert os.path.abspath(pytest.__file__) in files
    assert any(path.endswith(".so") for path in files)
    main = getattr(sys.modules["__main__"], "__file__", None)
    assert main is None or os.path.abspath(main) in files


def test_questions_close_together_look_once(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = Snapshot.take()
    assert snapshot.changed() == []
    module.write_text("x = 22\n")
    with monkeypatch.context() as patch:
        patch.setattr(stale, "_stamp", lambda path: pytest.fail("looked again"))
        assert snapshot.changed() == []
    monkeypatch.setattr(snapshot, "_valid_until", 0.0)
    assert snapshot.changed() == [str(module)]
