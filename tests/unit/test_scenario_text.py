"""The text form of scenarios: what is read is what is written, and errors say what to do."""

from __future__ import annotations

import pickle

import pytest

from clonal.scenario import Pages, Scenario, ScenarioError, parse

TEXT = """\
parent: map heap anon 64
parent: map code file 32 library
parent: write heap 0-15,20
parent: mprotect code 0-3 r
parent: madvise heap 60-63 dontfork
parent: fork child
child: mlock heap 1
child: munlock heap 1
child: munmap heap 2-3
child: vfork grandchild
grandchild: read heap 0
grandchild: exec
grandchild: exit 3
child: wait grandchild
child: mremap heap 128
child: exit
parent: wait child
"""


def test_text_that_is_read_is_written_again() -> None:
    assert str(parse(TEXT)) == TEXT
    assert parse(str(parse(TEXT))) == parse(TEXT)


def test_comments_and_blank_lines_are_left_out() -> None:
    assert parse("# a story\n\n p:map a anon 4 # four\n") == parse("p: map a anon 4")


@pytest.mark.parametrize(
    ("text", "shown"),
    [("3", "3"), ("0-3", "0-3"), ("4,5,6", "4-6"), ("9,0-3,2-5", "0-5,9"), ("1,1", "1")],
)
def test_pages_are_written_the_shortest_way(text: str, shown: str) -> None:
    assert str(Pages.parse(text)) == shown
    assert Pages.of(Pages.parse(text)) == Pages.parse(text)
    assert list(Pages.parse(text).numbers) == list(Pages.parse(text))


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("parent map a anon 4", 1, "names no process; write PROCESS: OPERATION ARGUMENTS"),
        ("\np: rea a 0", 2, "there is no operation 'rea'; write one of map, "),
        ("p: map a anon", 1, "the arguments do not fit; write p: map NAME KIND PAGES [FILE]"),
        ("p: map a swap 4", 1, "'swap' is no kind (anon, "),
        ("p: map a anon 0", 1, "'0' is no number of pages"),
        ("p: map a anon 4\np: read a 3-1", 2, "the range 3-1 runs backwards"),
        ("p: map a anon 4\np: read a 0-4", 2, "a has no page 4; its pages are 0-3"),
        ("p: read a 0", 1, "p has no region 'a'; write p: map a anon 16"),
        ("p: map a anon 4\np: map a anon 4", 2, "p has a region 'a' already"),
        ("p: map a thp 100", 1, "write a multiple of 512"),
        ("p: fork p", 1, "there is a process 'p' already"),
        ("p: exit\np: fork c", 2, "p has exited; take this step before its exit"),
        ("p: vfork c\np: fork d", 2, "p sleeps in vfork; let c exec or exit first"),
        ("p: map a anon 1\nq: map b anon 1\np: wait q", 3, "'q' is no child of p"),
        ("p: exit 256", 1, "no exit status from 0 to 255"),
        ("p: map a anon 4\np: madvise a 0 please", 2, "'please' is no advice (dontneed, "),
    ],
)
def test_an_error_names_the_line_and_what_to_do(text: str, line: int, says: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse(text)
    assert caught.value.line == line
    assert says in str(caught.value)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.line) == (str(caught.value), line)


def test_a_vforked_child_lets_its_parent_go_on() -> None:
    assert isinstance(parse("p: vfork c\nc: exit\np: fork d"), Scenario)
