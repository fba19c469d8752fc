"""The documents' pictures are what the model draws, and their commands exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from clonal.bench.strategies import ARTICLE, FLOOR, STRATEGIES
from clonal.explain import TOPICS
from tests.support import ROOT

BELIEFS = (ROOT / "docs" / "beliefs.md").read_text("utf-8")
COMMANDS = sorted(set(re.findall(r"^\$ (.+)$", BELIEFS, re.MULTILINE)))


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


def test_every_belief_can_be_measured() -> None:
    beliefs = BELIEFS.split("\n## ")[1:]
    assert len(beliefs) >= 16
    assert all(belief.startswith('"') and "```console" in belief for belief in beliefs)


@pytest.mark.parametrize(
    "claim",
    [
        "pgd_dup",
        "vm.overcommit_memory=2",
        "CLONE_VM",
        "bash -c 'fork() { :; }'",
        "Fork takes microseconds",
        "Touch the pages in the parent",
        "The child's tables are marked read-only",
        "A write to a shared page allocates a page, copies",
        "Linux, BSD and macOS",
    ],
)
def test_every_claim_of_the_article_is_among_them(claim: str) -> None:
    assert any(claim in heading for heading in re.findall(r'^## (".+")$', BELIEFS, re.MULTILINE))


def test_every_step_that_the_beliefs_point_to_is_there() -> None:
    for belief in BELIEFS.split("\n## ")[1:]:
        told = re.findall(r"^\$ clonal explain (\S+)", belief, re.MULTILINE)
        after = belief.rpartition("```")[2]
        for name, step in re.findall(r"(?:`([a-z-]+)`, )?[Ss]teps? (\d)", after):
            topics = [name] if name in TOPICS else told
            assert any(int(step) <= len(TOPICS[each].steps) for each in topics), after


@pytest.mark.parametrize("command", [each for each in COMMANDS if "clonal bench" in each])
def test_every_strategy_of_the_beliefs_exists(command: str) -> None:
    words = command.split()
    assert set(words[words.index("--strategies") + 1].split(",")) <= {*STRATEGIES, FLOOR, ARTICLE}


def measured(command: str, timeout: int) -> str:
    """What a command prints. grep -c says by its status that it found nothing."""
    words = shlex.split(command)
    if words[0] == "clonal":
        words[:1] = [sys.executable, "-m", "clonal.cli.main"]
    result = subprocess.run(words, capture_output=True, text=True, timeout=timeout)
    assert result.returncode == (command.startswith("grep -c") and result.stdout == "0\n"), result.stderr
    return result.stdout


@pytest.mark.parametrize("command", [each for each in COMMANDS if "clonal bench" not in each])
def test_every_command_of_the_beliefs_runs(command: str) -> None:
    shown = measured(command, 60)
    if command.startswith("clonal explain"):
        without = bool(TOPICS[command.split()[2]].lacking())
        assert "the kernel differs" not in shown and ("without the kernel" in shown) == without
    else:
        assert shown == ("0\n" if command.startswith("grep") else "Linux\n")


@pytest.mark.soak
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("command", [each for each in COMMANDS if "clonal bench" in each])
def test_every_benchmark_of_the_beliefs_runs(command: str) -> None:
    assert measured(command, 900)


def test_the_kernel_has_the_functions_that_it_is_said_to_have_and_no_other() -> None:
    symbols = Path("/proc/kallsyms")
    if not symbols.exists():
        pytest.skip("this kernel has no /proc/kallsyms")
    names = {line.split()[2] for line in symbols.read_text().splitlines()}
    assert "pgd_dup" not in names
    assert "copy_page_range" in names
