"""A frozen process loses nothing at exit: the same script, frozen and not, leaves the same behind."""

from __future__ import annotations

import sys

import pytest

from tests.support import run_script

HAS_IMMORTALS = sys.version_info >= (3, 12)
TWINS = ["unfrozen", "mortal heap", "immortal heap", "frozen"]

FREEZE = """
import sys
def freeze(**options):
    if sys.argv[1] == "frozen":
        import clonal
        clonal.freeze(**options)
    elif sys.argv[1] != "unfrozen":
        from clonal.image import heap
        heap.prepare(immortal=sys.argv[1] == "immortal heap", **options)
"""


def outcomes(body: str) -> list[str]:
    """What the script prints, as each twin."""
    return [run_script(FREEZE + body, args=[twin]).stdout for twin in TWINS]


def assert_same(body: str, expected: str) -> None:
    assert dict(zip(TWINS, outcomes(body), strict=True)) == dict.fromkeys(TWINS, expected)


REPORT_FILE = """
import os
read, write = os.pipe()
if (child := os.fork()):                    # the parent says what the child left behind
    os.close(write)
    os.waitpid(child, 0)
    print(os.fdopen(read).read(), end="", flush=True)
    os._exit(0)
os.close(read)
def say(text): os.write(write, (text + "\\n").encode())
"""


def test_a_file_held_only_by_an_immortal_object_keeps_its_buffered_bytes() -> None:
    assert_same(
        REPORT_FILE
        + """
class Holder: pass
holder = Holder()
holder.file = open(write, "w", closefd=False)
holder.file.write("before ")
freeze()
holder.file.write("after\\n")
""",
        "before after\n",
    )


def test_a_file_opened_after_the_freeze_and_held_by_an_immortal_object_is_flushed() -> None:
    assert_same(
        REPORT_FILE
        + """
class Holder: pass
holder = Holder()
freeze()
holder.log = open(write, "w", closefd=False)
holder.log.write("late\\n")
""",
        "late\n",
    )


def test_nothing_is_flushed_twice_by_a_process_and_its_forked_child() -> None:
    assert_same(
        REPORT_FILE
        + """
file = open(write, "w", closefd=False)
file.write("once\\n")
file.flush()
freeze()
if os.fork() == 0:
    file.write("child\\n")
    sys.exit(0)
os.wait()
file.write("parent\\n")
""",
        "once\nchild\nparent\n",
    )


def test_suspended_generators_run_their_finally_at_exit() -> None:
    assert_same(
        REPORT_FILE
        + """
def generator():
    try:
        yield 1
    finally:
        say("finally")
g = generator()
next(g)
freeze()
""",
        "finally\n",
    )


def test_del_runs_once_for_what_the_program_dropped_and_for_what_it_kept() -> None:
    bodies = outcomes(
        REPORT_FILE
        + """
class Loud:
    def __init__(self, name): self.name = name
    def __del__(self): say(self.name)
kept, dropped = Loud("kept"), Loud("dropped")
cycle = Loud("cycle"); cycle.me = cycle
freeze()
del dropped, cycle
"""
    )
    assert [sorted(body.split()) for body in bodies] == [["cycle", "dropped", "kept"]] * len(TWINS)


def test_finalisers_come_after_the_atexit_callbacks_registered_before_and_after_the_freeze() -> None:
    assert_same(
        REPORT_FILE
        + """
import atexit
class Loud:
    def __del__(self): say("del")
loud = Loud()
atexit.register(say, "registered before")
freeze()
atexit.register(say, "registered after")
""",
        "registered after\nregistered before\ndel\n",
    )


def test_an_object_is_finalised_before_the_file_it_writes_to() -> None:
    assert_same(
        REPORT_FILE
        + """
class Journal:
    def __init__(self): self.file = open(write, "w", closefd=False)
    def __del__(self): self.file.write("closing entry\\n"); self.file.close()
journal = Journal()
freeze()
""",
        "closing entry\n",
    )


def test_a_holder_is_finalised_before_what_it_holds_although_that_is_older() -> None:
    assert_same(
        REPORT_FILE
        + """
class Connection:
    def __init__(self, name): self.name, self.open = name, True
    def __del__(self): self.open = False; say(f"{self.name} closed")
class Session:
    def __init__(self, connection): self.parts = {"connection": [connection]}
    def __del__(self): say(f"session ends, open: {self.parts['connection'][0].open}")
def transaction(connection):
    try:
        yield
    finally:
        say(f"transaction ends, open: {connection.open}")
class Holder: pass
one = Holder(); two = Holder()
session = Session(Connection("first"))
running = transaction(Connection("second"))
next(running)
freeze()
""",
        "session ends, open: True\ntransaction ends, open: True\nsecond closed\nfirst closed\n",
    )


def test_a_stream_over_a_users_own_layer_is_written_before_that_layer_closes() -> None:
    assert_same(
        REPORT_FILE
        + """
import io
class Channel:
    open = True
    def __del__(self): self.open = False; say("channel closed")
class Layer(io.RawIOBase):
    def __init__(self, channel): self.channel = channel
    def writable(self): return True
    def write(self, data):
        say(f"open: {self.channel.open}, {bytes(data).decode()}")
        return len(data)
stream = io.TextIOWrapper(io.BufferedWriter(Layer(Channel())))
freeze()
stream.write("text")
""",
        "open: True, text\nchannel closed\n",
    )


def test_an_error_in_a_finaliser_is_reported_and_the_next_one_runs() -> None:
    body = (
        REPORT_FILE
        + """
class Broken:
    def __del__(self): raise ValueError("broken finaliser")
class Loud:
    def __del__(self): say("still ran")
a, b = Broken(), Loud()
freeze()
"""
    )
    for twin in TWINS:
        result = run_script(FREEZE + body, args=[twin])
        assert result.stdout == "still ran\n", twin
        assert "ValueError: broken finaliser" in result.stderr, twin


def test_a_forked_child_that_exits_finalises_as_its_unfrozen_twin_would() -> None:
    assert_same(
        REPORT_FILE
        + """
class Loud:
    def __del__(self): say("del in " + ("child" if os.getpid() != parent else "parent"))
parent = os.getpid()
loud = Loud()
freeze()
if os.fork() == 0:
    sys.exit(3)
say(str(os.waitstatus_to_exitcode(os.wait()[1])))
""",
        "del in child\n3\ndel in parent\n",
    )


def test_weakref_finalize_and_temporary_files_behave_as_in_the_twin() -> None:
    assert_same(
        REPORT_FILE
        + """
import tempfile, weakref
class Thing: pass
thing = Thing()
weakref.finalize(thing, say, "finalize")
folder = tempfile.TemporaryDirectory()
file = tempfile.NamedTemporaryFile("w")
file.write("x")
import atexit
class Last:
    def __del__(self): say(f"{os.path.exists(folder.name)}")
import builtins
builtins.last = Last()
names = [folder.name, file.name]
freeze()
atexit.register(lambda: say("all there" if all(map(os.path.exists, names)) else "missing"))
""",
        "all there\nfinalize\nFalse\n",
    )


def test_a_clone_flushes_what_it_wrote_but_leaves_the_templates_objects_alone() -> None:
    body = (
        REPORT_FILE
        + """
import tempfile
from clonal.image import finalise
class Loud:
    def __init__(self, name): self.name = name
    def __del__(self): say(self.name)
theirs = Loud("of the template")
temporary = tempfile.NamedTemporaryFile()
log = open(write, "w", closefd=False)
freeze()
if os.fork() == 0:
    ours = Loud("of the clone")
    log.write("written in the clone\\n")
    finalise.finish_clone()
    os._exit(0)
os.wait()
say(f"temporary file there: {os.path.exists(temporary.name)}")
os._exit(0)
"""
    )
    for twin in TWINS[1:]:
        out = run_script(FREEZE + body, args=[twin]).stdout
        assert out == "of the clone\nwritten in the clone\ntemporary file there: True\n", twin


def test_a_clone_that_freezes_again_finalises_what_it_made_and_not_its_templates_objects() -> None:
    body = (
        REPORT_FILE
        + """
import atexit
class Loud:
    def __init__(self, name): self.name = name
    def __del__(self): say(self.name)
theirs = Loud("of the template")
freeze()
if os.fork() == 0:
    atexit._clear()          # as clones do
    ours = Loud("of the clone")
    freeze()
    freeze()
    sys.exit(0)
os.wait()
os._exit(0)
"""
    )
    for twin in ("immortal heap", "frozen"):
        expected = "of the clone\n" if HAS_IMMORTALS else "of the template\nof the clone\n"
        assert run_script(FREEZE + body, args=[twin]).stdout == expected, twin


def test_what_was_buffered_at_the_freeze_is_written_once_and_not_by_each_child() -> None:
    body = (
        REPORT_FILE
        + """
from clonal.image import heap
file = open(write, "w", closefd=False)
file.write("warm\\n")
heap.prepare(without={without})
for _ in range(3):
    if os.fork() == 0:
        sys.exit(0)
    os.wait()
"""
    )
    assert run_script(body.replace("{without}", "[]")).stdout == "warm\n"
    assert run_script(body.replace("{without}", "['flush']")).stdout == "warm\n" * 4  # why it is done


@pytest.mark.parametrize("immortal", [True, False])
def test_the_report_names_the_types_with_finalisers(immortal: bool) -> None:
    run_script(
        f"""
        from clonal.image import heap
        class Loud:
            def __del__(self): pass
        louds = [Loud() for _ in range(3)]
        report = heap.prepare(immortal={immortal})
        assert report.finaliser_types["__main__.Loud"] == 3, report
        """
    )
