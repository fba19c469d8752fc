"""What `clonal.audit()` finds in a fresh interpreter that has run a body."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping

from tests.support import run_script

PRELUDE = """
import json, os, sys
import clonal

done = lambda: None  # a body that starts processes replaces it by what ends them

def report(**options):
    # Leaves at once: threads of the body may not keep the process.
    found = [hazard.to_json() for hazard in clonal.audit(**options)]
    os.write(1, json.dumps(found).encode())
    done()
    os._exit(0)
"""


def audit_of(
    body: str, *, env: Mapping[str, str] | None = None, user: str | None = None, ends: str = "report()"
) -> list[dict[str, str]]:
    """The hazards after `body`; a body that reports itself (in a loop, a thread) says ends=""."""
    source = f"{PRELUDE}\n{textwrap.dedent(body)}\n{ends}\n"
    found: list[dict[str, str]] = json.loads(_last_line(source, env, user))
    return found


def _last_line(source: str, env: Mapping[str, str] | None, user: str | None) -> str:
    buffered = {"PYTHONUNBUFFERED": "", **(env or {})}  # as it is in production, whatever runs the tests
    return run_script(source, env=buffered, user=user).stdout.splitlines()[-1]


def named(found: list[dict[str, str]], name: str) -> list[dict[str, str]]:
    return [hazard for hazard in found if hazard["name"] == name]
