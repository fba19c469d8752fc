"""`import clonal` is cheap, and its names are those the design fixes."""

from __future__ import annotations

import clonal
from tests.support import run_script

DESIGN = {"freeze", "audit", "Template", "shared_array", "launch", "sharing"}


def test_the_names_of_the_design_are_public() -> None:
    assert set(clonal.__all__) >= DESIGN
    assert set(dir(clonal)) == set(clonal.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(clonal, "nonesuch")


def test_importing_clonal_loads_neither_numpy_nor_rich_nor_cloudpickle() -> None:
    run_script(
        """
        import sys
        before = set(sys.modules)
        import clonal
        loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
        third_party = loaded - set(sys.stdlib_module_names) - {"clonal"}
        assert not third_party, third_party
        ours = sorted(name for name in sys.modules if name.startswith("clonal"))
        assert ours == ["clonal", "clonal.errors"], ours
        """
    )


def test_elsewhere_than_on_linux_clonal_imports_and_freeze_reports_that_it_did_nothing() -> None:
    run_script(
        """
        import sys
        sys.modules["clonal._native"] = None  # it is not built there
        sys.platform = "darwin"
        import clonal
        report = clonal.freeze()
        assert report.bytes_imaged == 0
        assert "Linux only" in str(report), report
        """
    )
