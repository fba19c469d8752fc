"""The documents' pictures are what the model draws, and their commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from clonal.bench.strategies import ARTICLE, FLOOR, STRATEGIES
from clonal.explain import TOPICS
from tests.support import ROOT

BELIEFS = (ROOT / "docs" / "beliefs.md").read_text("utf-8")
COMMANDS = re.findall(r"^\$ (.+)$", BELIEFS, re.MULTILINE)


def test_every_picture_is_what_the_model_draws_now() -> None:
    script = ROOT / "scripts" / "pictures.py"
    result = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, f"{result.stdout} (run scripts/pictures.py)"


def test_the_pictures_show_most_of_what_is_modelled() -> None:
    text = (ROOT / "docs" / "copy-on-write.md").read_text("utf-8")
    shown = set(re.findall(r"<!-- explain (\S+) \d+: begin -->\n```text\n\S", text))
    assert shown >= {
        "fork",
        "write",
        "last-sharer",
        "zero-page",
        "private-file",
        "image",
        "thp",
        "vfork",
        "refcount",
    }


def test_every_belief_but_the_last_can_be_measured() -> None:
    beliefs = BELIEFS.split("\n## ")[1:]
    assert len(beliefs) >= 15
    assert all("```console" in belief for belief in beliefs[:-1])


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_every_command_of_the_beliefs_exists(command: str) -> None:
    words = command.split()
    if words[:2] == ["clonal", "explain"]:
        assert words[2] in TOPICS
    elif words[:2] == ["clonal", "bench"]:
        names = words[words.index("--strategies") + 1].split(",")
        assert set(names) <= {*STRATEGIES, FLOOR, ARTICLE}
    else:
        assert words[0] == "grep"


def test_the_kernel_has_the_functions_that_it_is_said_to_have_and_no_other() -> None:
    symbols = Path("/proc/kallsyms")
    if not symbols.exists():
        pytest.skip("this kernel has no /proc/kallsyms")
    names = {line.split()[2] for line in symbols.read_text().splitlines()}
    assert "pgd_dup" not in names
    assert "copy_page_range" in names
