"""The table of traps names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent.parent
FOLDERS = {"c": "conformance", "i": "integration", "n": "native"}


def test_every_test_that_the_table_of_traps_names_exists() -> None:
    named = 0
    for line in (TESTS / "conformance" / "README.md").read_text().splitlines():
        source = ""
        for folder, file, name in re.findall(r"(?:\b([cin]) )?`([\w.]+\.py|…)(?:::(\w+))?`", line):
            if folder:
                path = TESTS / FOLDERS[folder] / file
                assert path.exists(), path
                source = path.read_text()
            if name:
                assert f"def {name}(" in source, f"{file}::{name}"
                named += 1
    assert named > 40
