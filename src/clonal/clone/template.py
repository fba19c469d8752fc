"""Template: a warm, frozen process that clones are made from."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import resource
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from clonal import _native
from clonal.clone import launching, main_rule, mapping, pickling, process, wire
from clonal.clone.handle import Clone
from clonal.clone.options import PLAIN, Options
from clonal.clone.process import TemplateProcess
from clonal.clone.stats import Recorder, Stats
from clonal.errors import CloneRefused, TemplateClosed, TemplateDied, WrongProcess
from clonal.kernel import procfs
from clonal.kernel.headroom import PRIVATE_BYTES, Headroom
from clonal.kernel.oom import OomWatch

Setup = str | Callable[[], Any] | None
RECORDINGS = "clonal.observe.record.file"  # by name: what observes lies above what clones
Stale = Literal["warn", "rebuild", "ignore"]


class Template:
    """A process that is warmed up once and then cloned in constant time.

    `preload` names modules to import, `setup` ("module:function", "file.py:function" or a callable)
    is called after them; then the process is frozen and waits. `env` is laid over this process's
    environment (None removes a variable). `standby` clones are kept forked ahead. `stale` says what
    happens when a file the template has loaded changes. `startup_timeout` bounds the warm-up. `record`
    is a file for the copy-on-write faults of all clones, which `clonal report` reads. The other options
    are those of `clonal.freeze`.
    """

    def __init__(
        self, preload: Sequence[str] = (), setup: Setup = None, *,
        env: Mapping[str, str | None] | None = None, cwd: str | os.PathLike[str] | None = None,
        standby: int = 0, stale: Stale = "warn", startup_timeout: float | None = None,
        immortal: bool = True, hugepages: bool = True, threads: Literal["stop", "refuse"] = "stop",
        exclude: Sequence[Any] = (), trial: Callable[[], Any] | None = None,
        record: str | os.PathLike[str] | None = None, _freeze: bool = True, _here: bool = False,
    ) -> None:  # fmt: skip
        main_rule.refuse_while_importing()
        if isinstance(preload, str):
            raise TypeError("preload is a list of module names, not one string")
        freeze = {
            "immortal": immortal, "hugepages": hugepages, "threads": threads,
            "exclude": tuple(exclude), "trial": trial,
        }  # fmt: skip
        self._plan = launching.Plan(
            list(preload), setup, None if env is None else dict(env),
            None if cwd is None else os.fspath(cwd), standby,
            stale, startup_timeout, freeze if _freeze else None, _here, _emptied(record),
        )  # fmt: skip
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._recorder = Recorder()
        self._answered: deque[weakref.ref[Clone]] = deque()
        self._closed = True
        self._retired: list[TemplateProcess] = []  # rebuilt since; they end with their last clone
        self._start()
        self._closed = False

    @classmethod
    def here(cls, *, standby: int = 0, **freeze: Any) -> Template:
        """A template that is a fork of this very process, as it is now: for notebooks and tests.

        Threads of this process do not exist in it; a warning names them. `freeze` are the options of
        `clonal.freeze`.
        """
        return cls(standby=standby, stale="ignore", _here=True, **freeze)

    def _start(self) -> None:
        main_rule.alias_here()
        self._process = TemplateProcess()
        self._namer, ready = launching.start(self._process, self._plan)
        self.report = ready.report
        self.hazards: list[Any] = ready.hazards
        self.dropped_threads: list[str] = ready.dropped_threads
        self._files = ready.files
        self._told_stale: list[str] = []
        self._headroom = Headroom(ready.pid)
        self._expected = PRIVATE_BYTES
        self._process.oom = OomWatch(ready.pid)

    # -- cloning -----------------------------------------------------------------------------------

    def clone(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Clone:
        """Runs `fn(*args, **kwargs)` in a fresh clone."""
        return self._clone(PLAIN, fn, args, kwargs)

    def options(
        self, *, timeout: float | None = None, env: Mapping[str, str | None] | None = None,
        cwd: str | os.PathLike[str] | None = None, capture: bool = False,
    ) -> Configured:  # fmt: skip
        """Clones with options: `timeout` seconds until they are killed, `env` laid over the
        template's, `cwd`, `capture` of stdout and stderr."""
        return Configured(self, Options(timeout, env, cwd, capture))

    def map(
        self, fn: Callable[[Any], Any], iterable: Iterable[Any], *, concurrency: int | None = None
    ) -> Iterator[Any]:
        """Yields `fn(item)` in order, each from its own clone, at most `concurrency` at a time.
        The first exception propagates and the clones still running are killed."""
        return mapping.ordered(self.clone, fn, iterable, concurrency)

    def _clone(
        self, options: Options, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Clone:
        begun = time.monotonic_ns()
        self._check()
        target = self._process
        flags, body, fds = pickling.pack_call((fn, args, kwargs), self._namer)
        captured = _capture_files() if options.capture else None
        head = wire.head(wire.REQUEST, flags, options.notes() if options is not PLAIN else b"")
        deadline = 0 if options.timeout is None else begun + int(options.timeout * 1e9)
        try:
            with target.sending:
                fd = _native.wire_order(target.control, deadline, head, body, fds + (captured or ()))
        except (ConnectionError, OSError) as error:
            for memfd in captured or ():
                process.release(memfd)
            raise self._why_not(target, error) from None
        finally:
            wire.close_all(fds)
        self._recorder.made += 1
        return Clone(target, fd, begun, options.timeout, captured, self._note_answer)

    def _check(self) -> None:
        if os.getpid() != self._owner:
            raise WrongProcess(self._owner, os.getpid())
        if self._closed:
            raise TemplateClosed("this template was closed")
        self._sweep()
        if self._files is not None and (changed := self._files.changed()) != self._told_stale:
            self._handle_stale(changed)
        try:
            self._headroom.check(private_bytes=self._expected)
        except ProcessLookupError as error:  # it reads what /proc says of the template
            raise self._why_not(self._process, error) from None

    def _handle_stale(self, changed: list[str]) -> None:
        if self._plan.stale == "warn":
            self._told_stale = changed
            launching.warn_stale(changed)
            return
        with self._lock:
            if self._files is not None and self._files.changed():
                self._retired.append(self._process)
                self._start()

    def _why_not(self, target: TemplateProcess, error: OSError) -> Exception:
        if target.control < 0:
            return TemplateClosed("this template was closed")
        if error.errno in (errno.EMFILE, errno.ENFILE):
            have = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            return CloneRefused("open files of this process (RLIMIT_NOFILE)", have + 2, have, "descriptors")
        if target.ended(0.5):
            return TemplateDied(target.pid, target.status)
        return error

    def _note_answer(self, clone: Clone) -> None:
        self._recorder.answered(clone)
        self._headroom.done(private_bytes=self._expected)
        if not clone._ended:
            self._answered.append(weakref.ref(clone))

    def _sweep(self) -> None:
        """Takes in the ends of clones that have answered, so that handles kept in a list hold no
        descriptors: two for each clone made."""
        if self._retired:
            self._end_retired()
        for _ in range(min(2, len(self._answered))):
            try:
                reference = self._answered.popleft()
            except IndexError:
                return
            clone = reference()
            if clone is None:
                continue
            if clone._poll(clone._is_ended):
                self._expect(clone)
            else:
                self._answered.append(reference)

    def _expect(self, clone: Clone) -> None:
        """What headroom reckons with for the next clone: as many pages as the greatest of late faulted."""
        if clone.usage is not None:
            faulted = clone.usage.minor_faults * procfs.PAGE
            self._expected = max(PRIVATE_BYTES, self._expected * 7 // 8, faulted)

    def _end_retired(self) -> None:
        for old in list(self._retired):
            board = _native.board_read(old.board)
            if board["live"] <= board["standby_ready"]:
                self._retired.remove(old)
                old.close()

    # -- the rest ----------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The template's process id."""
        return self._process.pid

    @property
    def pidfd(self) -> int:
        """A pidfd of the template, valid until `close`."""
        return self._process.pidfd

    def stats(self) -> Stats:
        """What has been made so far, how fast, and what clones import that could be preloaded."""
        if self._process.board < 0:
            raise TemplateClosed("this template was closed")
        return self._recorder.stats(_native.board_read(self._process.board))

    def close(self) -> None:
        """Ends the template and its clones. Harmless when repeated."""
        if os.getpid() != self._owner:
            return
        self._closed = True
        for process_ in (*self._retired, self._process):
            process_.close()

    def __enter__(self) -> Template:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Template {self._process.pid}{' closed' if self._closed else ''}>"

    def __del__(self) -> None:
        if getattr(self, "_closed", True) or self._owner != os.getpid():
            return
        if self._process.pid > 0:
            warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=2)
        with contextlib.suppress(Exception):
            self.close()


def _emptied(record: str | os.PathLike[str] | None) -> str | None:
    """The path of a recording, whose file is made here, so that it fails here. Raises OSError, also of a file
    that is there and no recording."""
    if record is None:
        return None
    path = os.path.abspath(record)
    recordings = importlib.import_module(RECORDINGS)
    if os.path.isfile(path) and os.path.getsize(path) and not recordings.is_recording(path):
        raise FileExistsError(errno.EEXIST, "is no recording, and is not overwritten", path)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
    return path


class Configured:
    """A template with options; see `Template.options`."""

    def __init__(self, template: Template, options: Options) -> None:
        self._template = template
        self._options = options

    def clone(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Clone:
        """Runs `fn(*args, **kwargs)` in a fresh clone."""
        return self._template._clone(self._options, fn, args, kwargs)

    def map(
        self, fn: Callable[[Any], Any], iterable: Iterable[Any], *, concurrency: int | None = None
    ) -> Iterator[Any]:
        """As `Template.map`."""
        return mapping.ordered(self.clone, fn, iterable, concurrency)


def _capture_files() -> tuple[int, int]:
    flags = os.MFD_CLOEXEC
    out = process.hold(os.memfd_create("clonal-stdout", flags))
    return out, process.hold(os.memfd_create("clonal-stderr", flags))
