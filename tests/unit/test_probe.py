"""What the kernel offers is found by trying, and each ability can be taken away."""

from __future__ import annotations

import os
import platform

import pytest

from clonal.kernel import probe
from tests.support import run_script


@pytest.mark.parametrize("ability", sorted(probe.ABILITIES))
def test_an_ability_can_be_switched_off(ability: str) -> None:
    run_script(
        f"""
        from clonal.kernel import probe
        kernel = probe.probe()
        assert not kernel.has({ability!r}) and not getattr(kernel, {ability!r})
        assert {ability!r} in kernel.disabled and "something_else" in kernel.disabled
        assert probe.describe().endswith("without " + " ".join(sorted(kernel.disabled)))
        """,
        env={"CLONAL_DISABLE": f"{ability}, something_else"},
    )


def test_probing_agrees_with_the_version(user: str | None) -> None:
    run_script(
        """
        from clonal.kernel.probe import probe
        since = {"memfd": (3, 17), "pidfd": (5, 3), "madv_populate": (5, 14), "pagemap_scan": (6, 7)}
        kernel = probe()
        for ability, version in since.items():
            assert kernel.has(ability) == (kernel.version >= version), (ability, kernel)
        """,
        user=user,
    )


def test_facts_agree_with_the_standard_library() -> None:
    kernel = probe.KERNEL
    assert kernel is probe.probe()
    assert (kernel.release, kernel.machine) == (platform.release(), platform.machine())
    assert kernel.page_size == os.sysconf("SC_PAGE_SIZE")
    assert kernel.hpage_size % kernel.page_size == 0
    assert kernel.thp_enabled in ("", "always", "madvise", "never")


def test_an_unknown_ability_is_an_error() -> None:
    with pytest.raises(ValueError, match="no ability 'telepathy'"):
        probe.KERNEL.has("telepathy")


def test_the_description_names_machine_kernel_and_python() -> None:
    line = probe.describe()
    for part in (platform.release(), platform.machine(), platform.python_version()):
        assert part in line
    assert "\n" not in line


def test_the_version_of_any_release_string_is_read() -> None:
    assert probe._version("6.12.0-rc1+") == (6, 12, 0)
    assert probe._version("5.15.153.1-microsoft-standard-WSL2") == (5, 15, 153, 1)
    assert probe._version("6.1rc") == (6,)


def test_the_kernel_layer_brings_no_libraries_into_a_template() -> None:
    """Each would cost every fork five mappings. (What dataclasses bring is there anyway.)"""
    run_script(
        """
        import contextlib, dataclasses, typing
        from clonal import _native
        def loaded():
            return {line.split()[-1] for line in open("/proc/self/maps") if ".cpython-" in line}
        before = loaded()
        from clonal.kernel import cgroup, headroom, memory, oom, probe, procfs
        headroom.Headroom().check()
        probe.probe()
        assert loaded() == before, loaded() - before
        """
    )
