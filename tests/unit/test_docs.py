"""The documentation points at what exists and names what is public."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import clonal
from tests.support import ROOT

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_public_name_is_in_the_api_page() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    missing = [name for name in clonal.__all__ if not re.search(rf"\b{name}\b", text)]
    assert not missing


def test_every_make_target_that_the_documents_name_exists() -> None:
    rules = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for page in PAGES:
        for target in re.findall(r"(?:\$|`)\s?make ([a-z]+)", page.read_text()):
            assert target in rules, f"{page.name} says make {target}"
