"""`clonal record`: programs that close every descriptor they find, as daemons do, and open their own."""

from __future__ import annotations

import pytest

from tests.integration.test_record import needs_traps
from tests.support import run_script

pytestmark = pytest.mark.newest
DAEMON = """
import os
buffer = bytearray(4096 * 200)
buffer[::4096] = b"1" * 200

def write(value):
    buffer[::4096] = bytes([value]) * 200

if os.fork() == 0:
    write(2)
    os.closerange(3, 256)
    mine = [open(f"mine{number}", "w+") for number in range(40)]  # under the numbers of the recording
    ready, go = os.pipe()
    if os.fork() == 0:  # keeps all pages as they are until the end; its parent's recording begins again
        os.close(go)
        os.read(ready, 1)
        os._exit(0)
    if os.fork() == 0:
        write(3)
        os._exit(0)
    os.wait()
    write(4)
    os.close(go)
    os.wait()
    for number, file in enumerate(mine):
        print(number, file=file, flush=True)
    os.closerange(3, 10)
    os._exit(0)
os.wait()
for number in range(40):
    assert open(f"mine{number}").read() == f"{number}\\n", number
"""
SCRIPT = f"""
import subprocess, sys
from collections import Counter
from pathlib import Path
from clonal.observe.analyse import load
from clonal.observe.report.summary import shortcomings
Path("daemon.py").write_text({DAEMON!r})
command = [sys.executable, "-m", "clonal", "record", "--backend", "sigtrap", "-o", "daemon.rec", "--"]
subprocess.run([*command, sys.executable, "daemon.py"], check=True)
found = load("daemon.rec")
pages = Counter(copy.pid for copy in found.by_program if copy.frame.function == "write")
[child] = [each for each in found.processes.values() if each.generation == 1]
grandchild = max(found.processes.values(), key=lambda each: (each.generation, pages[each.pid]))
assert not found.truncated and not found.damaged
assert 395 <= pages[child.pid] <= 430 and 195 <= pages[grandchild.pid] <= 210, pages
assert grandchild.whole and not child.whole
[text] = [line for line in shortcomings(found) if "descriptors" in line]
assert text.startswith(f"Process {{child.pid}} closed the recording's descriptors"), text
"""


@needs_traps
def test_its_files_stay_its_own_and_the_recording_goes_on_at_its_next_fork(user: str | None) -> None:
    run_script(SCRIPT, user=user)
