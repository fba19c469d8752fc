"""Every error survives the trip between processes with its data."""

from __future__ import annotations

import copy
import pickle
import signal

import pytest

import clonal
from clonal import errors

EXAMPLES: list[errors.Error] = [
    errors.Error("plain", extra=[1, 2]),
    errors.FreezeRefused(["thread 12 (worker) cannot be stopped"]),
    errors.SetupFailed("preload numpy", "Traceback (most recent call last): …"),
    errors.TemplateDied(7, 9, "see its stderr"),
    errors.TemplateClosed("closed"),
    errors.WrongProcess(1, 2),
    errors.CloneDied(7, 3 << 8),
    errors.CloneDied(7, 9, oom=True),
    errors.CloneTimeout(7, 1.5, killed=True),
    errors.CloneRefused("RLIMIT_NPROC", 1, 0, unit="processes", hint="raise it"),
    errors.ResultNotPicklable("a generator"),
]


def family(cls: type[errors.Error]) -> set[type[errors.Error]]:
    return {cls}.union(*(family(each) for each in cls.__subclasses__()))


def test_every_error_class_has_an_example_here() -> None:
    ours = {cls for cls in family(errors.Error) if cls.__module__ == errors.__name__}
    assert ours == {type(example) for example in EXAMPLES}


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_is_the_same_after_pickling(error: errors.Error, protocol: int) -> None:
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.data == error.data
    assert again.args == error.args


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_is_the_same_after_copying(error: errors.Error) -> None:
    assert str(copy.copy(error)) == str(error)
    assert copy.deepcopy(error).data == error.data


def test_a_remote_traceback_shows_the_text_it_carries_after_pickling() -> None:
    again = pickle.loads(pickle.dumps(errors.RemoteTraceback("line 3, in f")))
    assert "line 3, in f" in str(again)


def test_data_reads_as_attributes_and_a_missing_one_is_an_attribute_error() -> None:
    died = errors.CloneDied(7, int(signal.SIGSEGV))
    assert (died.pid, died.signal, died.exitcode) == (7, signal.SIGSEGV, None)
    assert "SIGSEGV" in str(died)
    with pytest.raises(AttributeError, match="nonesuch"):
        _ = died.nonesuch


def test_a_clone_timeout_is_a_timeout_error_and_every_error_is_clonals() -> None:
    assert issubclass(errors.CloneTimeout, TimeoutError)
    assert all(isinstance(example, clonal.Error) for example in EXAMPLES)


@pytest.mark.parametrize(
    ("status", "split", "words"),
    [
        (None, (None, None), "not known"),
        (0, (0, None), "exited with status 0"),
        (3 << 8, (3, None), "exited with status 3"),
        (9, (None, 9), "killed by SIGKILL"),
        (11 | 0x80, (None, 11), "killed by SIGSEGV"),
        (33, (None, 33), "killed by signal 33"),
    ],
)
def test_a_wait_status_is_told_in_words(
    status: int | None, split: tuple[int | None, int | None], words: str
) -> None:
    assert errors.split_status(status) == split
    assert words in errors.describe_status(status)
