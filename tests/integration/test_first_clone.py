"""The first example of the documentation does what it says."""

from __future__ import annotations

import re

from tests.support import ROOT, run_script


def test_the_example_of_the_first_clone_page_finds_its_word_in_a_clone(user: str | None) -> None:
    text = (ROOT / "docs" / "first-clone.md").read_text()
    example = re.search(r"```python\n(# app\.py\n.*?)```", text, re.DOTALL)
    assert example, "the page no longer has the example"
    assert run_script(example[1], user=user).stdout == "0\n"
