"""What a clone imports itself is measured; what it does not, costs nothing."""

from __future__ import annotations

import pytest

from clonal.clone.imports import Imported, Row, Tally
from tests.support import run_script

PRELUDE = """
import os, sys
from clonal.clone import imports

def module(name, text):
    with open(f"{name}.py", "w") as file:
        file.write(text)
sys.path.insert(0, os.getcwd())
"""


@pytest.mark.parametrize("forked", [False, True])
def test_an_import_is_listed_with_what_it_brings(forked: bool) -> None:
    run_script(
        PRELUDE
        + f"""
module("inner", "import time; time.sleep(0.05); ballast = bytes(20_000_000); hole = b'x' * 20_000_000")
module("outer", "import inner")
module("before", "")
imports.watch()
import before
pid = os.fork() if {forked} else 0
if pid:
    sys.exit(os.waitpid(pid, 0)[1])
import outer, outer, inner
found = imports.collected()
names = [each.name for each in found]
assert names == (["outer"] if {forked} else ["before", "outer"]), names
assert 50 <= found[-1].ms < 5000 and 15 < found[-1].mb < 60, found
os._exit(0)
"""
    )


def test_a_clone_that_imports_nothing_reports_nothing() -> None:
    run_script(
        PRELUDE
        + """
assert imports.collected() == []
imports.watch()
imports.watch()
assert len([each for each in sys.meta_path if isinstance(each, imports.Watcher)]) == 1
import os, sys
assert imports.collected() == []
imports.unwatch()
assert not any(isinstance(each, imports.Watcher) for each in sys.meta_path)
"""
    )


def test_watching_changes_nothing_that_modules_can_see() -> None:
    run_script(
        PRELUDE
        + """
import importlib
module("plain", "x = 1")
module("broken", "raise RuntimeError('mine')")
imports.watch()
import plain, _decimal, colorsys
assert type(plain.__spec__.loader).__name__ == "SourceFileLoader" == type(plain.__loader__).__name__
assert "exec_module" not in vars(plain.__loader__)
assert plain.__loader__.get_source("plain") == "x = 1"
assert importlib.reload(plain) is plain
try:
    import broken
except RuntimeError as error:
    assert "mine" in str(error)
else:
    raise AssertionError
assert "broken" not in sys.modules
try:
    import no_such_module_anywhere
except ModuleNotFoundError as error:
    assert error.name == "no_such_module_anywhere"
names = [each.name for each in imports.collected()]
assert "plain" in names and "broken" not in names and "colorsys" in names, names
import json.decoder, xml.dom.minidom, numpy
assert numpy.zeros(3).sum() == 0
assert "numpy" in [each.name for each in imports.collected()]
"""
    )


def test_imports_of_several_threads_are_each_measured() -> None:
    run_script(
        PRELUDE
        + """
import threading, importlib
for number in range(8):
    module(f"m{number}", "import time; time.sleep(0.02)")
imports.watch()
threads = [threading.Thread(target=importlib.import_module, args=(f"m{n}",)) for n in range(8)]
for each in threads: each.start()
for each in threads: each.join()
assert sorted(each.name for each in imports.collected()) == [f"m{n}" for n in range(8)]
"""
    )


def test_the_tally_averages_and_puts_the_worst_first() -> None:
    tally = Tally()
    tally.add([Imported("small", 1.0, 0.5), Imported("big", 50.0, 10.0)])
    tally.add([Imported("small", 3.0, 1.5)])
    assert tally.rows() == [Row("big", 1, 50.0, 10.0), Row("small", 2, 2.0, 1.0)]


def test_warnings_and_tracebacks_of_imported_modules_name_the_importer() -> None:
    run_script(
        PRELUDE
        + """
import traceback, warnings
module("old", "import warnings; warnings.warn('old', DeprecationWarning, stacklevel=2)")
module("broken", "1 / 0")
imports.watch()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import old
assert caught[0].filename == __file__, caught[0].filename
try:
    import broken
except ZeroDivisionError as error:
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
assert [os.path.basename(file) for file in files] == ["script.py", "broken.py"], files
"""
    )
