"""The example's answers from clones equal those of a process that was never frozen."""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "spelling"

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("symspellpy") is None,
        reason="symspellpy is not installed: pip install -r examples/spelling/requirements.txt",
    ),
    pytest.mark.timeout(180),
]

ANSWERS = """
import app
for phrase in app.requests(12):
    print(phrase, app.handle(phrase), sep="\\t")
"""


def unfrozen() -> list[tuple[str, str]]:
    """(request, answer) of a process that knows nothing of Clonal."""
    output = subprocess.run(
        [sys.executable, "-c", ANSWERS], cwd=EXAMPLE, capture_output=True, text=True, check=True
    )
    pairs = [line.split("\t") for line in output.stdout.splitlines()]
    return [(phrase, answer) for phrase, answer in pairs]


def ask(address: str, phrase: str) -> str:
    with contextlib.closing(HTTPConnection(address, timeout=60)) as connection:
        connection.request("GET", f"/?phrase={quote(phrase)}")
        return connection.getresponse().read().decode()


@pytest.mark.parametrize("service", ["service.py", pytest.param("fork_service.py", marks=pytest.mark.newest)])
def test_a_service_answers_as_the_unfrozen_process(service: str) -> None:
    pairs = unfrozen()
    process = subprocess.Popen([sys.executable, service], cwd=EXAMPLE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        address = urlsplit(process.stdout.readline().strip()).netloc
        answers = [(phrase, ask(address, phrase)) for phrase, _ in pairs]
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()
    assert answers == pairs
