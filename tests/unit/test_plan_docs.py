"""docs/plan.md: its commands print what it quotes of them, and its Python does what it says."""

from __future__ import annotations

import argparse
import contextlib
import doctest
import io
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from clonal.cli import plan
from clonal.model.strategies import STRATEGIES
from tests.support import ROOT

pytestmark = pytest.mark.newest

TEXT = (ROOT / "docs" / "plan.md").read_text("utf-8")


def quotations() -> Iterator[tuple[str, list[str]]]:
    """Each command with the lines that are quoted of what it prints."""
    for block in re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL):
        for part in block.split("$ ")[1:]:
            command, *quoted = part.rstrip().splitlines()
            yield command, quoted


QUOTED = list(quotations())


def printed(command: str) -> str:
    """What a command prints, with the built-in costs."""
    words = shlex.split(command)
    assert words[:2] == ["clonal", "plan"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert plan.main(words[2:]) == 0
    return out.getvalue()


@pytest.mark.parametrize(("command", "quoted"), QUOTED, ids=[command for command, _ in QUOTED])
def test_a_command_prints_what_is_quoted(
    command: str, quoted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "--ram" in command and "--cores" in command, "it would print something else on each machine"
    lines = [line.rstrip() for line in printed(command).splitlines()]
    assert quoted
    assert [line for line in quoted if line not in lines] == []


def test_the_python_of_the_page_does_what_it_says() -> None:
    blocks = re.findall(r"```pycon\n(.*?)```", TEXT, re.DOTALL)
    assert blocks
    for block in blocks:
        test = doctest.DocTestParser().get_doctest(block, {}, "plan.md", "plan.md", 0)
        said = io.StringIO()
        assert doctest.DocTestRunner().run(test, out=said.write).failed == 0, said.getvalue()


def test_every_option_is_explained() -> None:
    options = [
        option
        for action in plan.parser()._actions
        if not isinstance(action, argparse._HelpAction)
        for option in action.option_strings
    ]
    assert [option for option in options if option not in TEXT] == []


def test_the_schema_names_every_key_of_the_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = json.loads(printed("clonal plan --heap 1G --clones 9 --ram 2G --cores 2 --written 90% --json"))
    schema = TEXT.partition("## JSON")[2]
    cow = made["strategies"]["cow"]
    keys = {*made, *cow, *cow["storm"], *cow["memory"], *cow["commit"], *cow["fit"], *cow["oom"]}
    keys |= {*made["advice"][0], *made["advice"][0]["gains"][0], *STRATEGIES}
    assert {key for key in keys if f"`{key}`" not in schema} == set()
