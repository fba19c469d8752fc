"""`clonal doctor PID`: families that really are near a limit."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from clonal.cli.main import main
from clonal.kernel import cgroup, memory
from clonal.observe.doctor import objects
from tests.groups import small as small
from tests.integration.doctor_machine import roomy as roomy
from tests.integration.sharing_fixtures import running

pytestmark = pytest.mark.newest
Captured = pytest.CaptureFixture[str]
LIMIT = 96 << 20

GROUP = """
with open(sys.argv[1] + "/cgroup.procs", "w") as file:
    file.write("0")
child = fork(int)
memory = area(88 << 8)
memory[::PAGE] = b"1" * (len(memory) // PAGE)
tell(child=child)
"""

MAPPINGS = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
count = int(open("/proc/sys/vm/max_map_count").read()) * 25 // 100
made = area(count)
start = ctypes.addressof(ctypes.c_char.from_buffer(made))
for page in range(0, count, 2):
    assert libc.mprotect(start + page * PAGE, PAGE, mmap.PROT_READ) == 0
tell()
"""

# Each is granted, since it is less than RAM and swap; they lie side by side and are one for a fork.
OVERCOMMIT = """
child = fork(int)
info = {line.split(":")[0]: int(line.split()[1]) << 10 for line in open("/proc/meminfo")}
pages = (info["MemTotal"] + info["SwapTotal"]) * 6 // 10 // PAGE
memory = [area(pages), area(pages)]
try:
    os.fork()
    refused = False
except OSError as error:
    refused = error.errno
tell(child=child, refused=refused)
"""


def doctor(capsys: Captured, pid: int) -> dict[str, dict[str, Any]]:
    assert main(["doctor", "--json", str(pid)]) == 0
    return {each["finding"]: each for each in json.loads(capsys.readouterr().out)["findings"]}


@pytest.mark.parametrize("small", [{"memory": LIMIT}], indirect=True)
def test_a_group_that_is_nearly_full_and_its_remedy(small: list[cgroup.Group], capsys: Captured) -> None:
    with running(GROUP, small[0].path) as facts:
        found = doctor(capsys, facts["pid"])
        assert {"cgroup", "oom-score"} <= found.keys()
        subprocess.run(["sh", "-c", found["cgroup"]["remedy"]["lines"][0]], check=True)
        assert not {"cgroup", "oom-score"} & doctor(capsys, facts["pid"]).keys()


def test_a_process_of_nearly_as_many_mappings_as_it_may_have(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "NEAR", 0.2)  # more of them take seconds to read
    with running(MAPPINGS) as facts:
        found = doctor(capsys, facts["pid"])
    assert list(found) == ["mappings"] and "mappings of" in found["mappings"]["evidence"][0]["text"]


@pytest.mark.skipif(memory.overcommit_mode() != 0, reason="vm.overcommit_memory is not 0")
def test_a_fork_that_the_kernel_refuses(capsys: Captured) -> None:
    with running(OVERCOMMIT) as facts:
        found = doctor(capsys, facts["pid"])
    assert facts["refused"] == 12 and list(found) == ["overcommit"], (facts, found)
