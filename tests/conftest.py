"""Fixtures for all tests: nothing may be left behind; run as root and as an ordinary user."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator

import pytest

from tests import leaks
from tests.groups import small  # noqa: F401  (a fixture)

OLDEST = "CLONAL_TEST_OLDEST"  # set for the run on an interpreter beside which there is a newer one


def pytest_configure(config: pytest.Config) -> None:
    leaks.mark_descendants()
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell starts what runs in its background
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get(OLDEST):
        here = pytest.mark.skip(reason="the same on every interpreter: it runs on the newest")
        for item in items:
            if item.get_closest_marker("newest"):
                item.add_marker(here)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is loaded by now stays: the collection after each test need not look at it again (50 ms each)."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves a process, descriptor, memory file or cgroup behind."""
    if request.node.get_closest_marker("allow_leaks"):
        yield
        return
    before = leaks.Snapshot.take()
    yield
    if complaints := before.complaints():
        pytest.fail("left behind:\n  " + "\n  ".join(sorted(complaints)), pytrace=False)


@pytest.fixture(params=["self", "nobody"])
def user(request: pytest.FixtureRequest) -> str | None:
    """For `run_script(user=user)`: a test that takes it runs as us and as an ordinary user."""
    return None if request.param == "self" else "nobody"
