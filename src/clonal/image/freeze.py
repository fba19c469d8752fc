"""`freeze()`: move this process's private memory into an image that fork need not copy.

The order of things: refuse what is unsafe, let thread pools stop by their fork handlers, prepare the
heap (immortal objects, hashes, pools), then hand over to the C core, which stops the remaining
threads, copies every private page into a sealed memory file and maps it back at the same addresses.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from clonal.errors import FreezeRefused
from clonal.image.report import REASONS, FreezeReport, Kept

if TYPE_CHECKING:
    from clonal.image.trial import Learnt

_count = 0


def freeze(
    *,
    immortal: bool = True,
    hugepages: bool = True,
    threads: Literal["stop", "refuse"] = "stop",
    exclude: Sequence[object] = (),
    trial: Callable[[], Any] | None = None,
) -> FreezeReport:
    """Freeze this process: later forks cost the same at any heap size, and clones that only read share
    every page.

    `immortal`: give all objects the immortal reference count (PEP 683), so that reading writes nothing.
    `hugepages`: back the image by 2 MiB pages. `threads`: other threads are stopped for the duration
    ("stop"), or any is a reason to refuse ("refuse"). `exclude`: objects or types that stay mortal.
    `trial`: called in a forked child first, to learn which pages a clone always writes.

    Raises `FreezeRefused` if a write could be lost; then nothing has been changed. Where an image is
    impossible, memory is backed by huge pages in place and the report says so. There is no thaw.
    Mechanism: kernel/fork.c dup_mmap, mm/memory.c vma_needs_copy.
    """
    if threads not in ("stop", "refuse"):
        raise ValueError(f'threads must be "stop" or "refuse", not {threads!r}')
    if sys.platform != "linux":
        return FreezeReport(
            degraded=[f"nothing was frozen: Clonal works on Linux only, this is {sys.platform}"]
        )
    started = time.perf_counter()
    report = FreezeReport()
    _refuse_unsafe(threads, report)
    _prepare_heap(report, immortal, exclude)
    learnt = _learn(report, trial, immortal) if trial is not None else None
    _make_image(report, hugepages, learnt.keep if learnt else [])
    report.seconds = time.perf_counter() - started
    if report.huge_bytes:
        settle()  # what the above has written; with huge pages that is a few blocks
    return report


def settle(*, hugepages: bool = True) -> None:
    """Image again, in a frozen process, what Python wrote since: the last call before a template waits
    in C, so that it forks with next to no pages of its own (163 → 106 µs a fork of bare Python). Does
    nothing where that fails."""
    import gc

    from clonal import _native
    from clonal.image import core

    gc.freeze()  # else each clone's end looks through what was made since the last one
    _native.detach_pools()  # frees since the freeze have opened some again, all over the heap
    _native.trim_malloc()  # else each clone's first large allocation tidies up, page by page
    core.switch(hugepages=hugepages)


def _refuse_unsafe(threads: str, report: FreezeReport) -> None:
    from clonal import _native
    from clonal.image import checks, guards

    reasons = checks.refusals()
    if checks.other_threads() and "atfork" not in guards.disabled():
        _native.quiesce()  # pools with fork handlers stop; they start again when used
    others = checks.other_threads()
    if others and threads == "refuse":
        reasons.append("other threads run: " + ", ".join(map(checks.thread_name, others)))
    elif others:
        report.threads_stopped = [checks.thread_name(tid) for tid in others]
        stuck = _native.try_stop()
        if stuck is not None:
            reasons.append(_unstoppable(*stuck))
    if reasons:
        raise FreezeRefused(reasons)


def _unstoppable(tid: int, reason: str) -> str:
    from clonal.image import checks

    if not tid:
        return f"threads cannot be stopped: {reason}"
    return f"thread {checks.thread_name(tid)} cannot be stopped: {reason}; end it before the freeze"


def _prepare_heap(report: FreezeReport, immortal: bool, exclude: Sequence[object]) -> None:
    from clonal.image import guards, heap

    hygiene = () if "hygiene" not in guards.disabled() else ("hashes", "pools", "trim")
    found = heap.prepare(immortal=immortal, exclude=exclude, without=hygiene)
    report.immortal_objects = found.immortal_objects
    report.finaliser_types = found.finaliser_types
    report.hashes_computed = found.hashes_computed
    report.pools_detached = found.pools_detached
    report.kept_objects += found.kept
    report.degraded += found.degraded


def _learn(report: FreezeReport, trial: Callable[[], Any], immortal: bool) -> Learnt:
    """What a clone always writes; the references among it are to objects that the walk could not reach."""
    from clonal import _native
    from clonal.image import heap
    from clonal.image.trial import learn

    learnt = learn(trial)
    report.hot = learnt.hot
    if immortal and heap.why_not_immortal() is None:
        report.immortal_objects += _native.immortalise_at(learnt.mortal)
    return learnt


def _make_image(report: FreezeReport, hugepages: bool, keep: list[tuple[int, int]]) -> None:
    from clonal.image import checks
    from clonal.kernel import procfs

    reason = checks.impossible()
    if reason is None:
        with checks.file_size_unlimited():
            reason = _image(report, hugepages, keep)
    if reason is not None:
        _collapse_in_place(report, reason, hugepages)
    report.vmas_after = procfs.vma_count()


def _image(report: FreezeReport, hugepages: bool, keep: list[tuple[int, int]]) -> str | None:
    """Make the image, a second time and as a whole if older generations hold too much. Returns why none
    could be made."""
    global _count
    from clonal.image import checks, core, generations
    from clonal.kernel import procfs

    again = generations.imaged_again(core.block(hugepages))
    if again and (no_room := checks.no_room(again + checks.PEAK_BYTES)):
        report.degraded.append(f"what was written since the last freeze stays as it is: {no_room}")
        report.old_generations = generations.older(0)
        return None
    if hugepages and not core.huge_pages_work():
        report.degraded.append(
            "no huge pages: MADV_COLLAPSE (Linux 6.1) is not available; the image has 4 KiB pages"
        )
    found, notes = core.switch(hugepages=hugepages, keep=keep)
    report.degraded += notes
    if found["call"]:
        return f"{found['call']}: {_errno_text(found['errno'])}"
    _account(report, found)
    if generations.too_fragmented(report.old_generations, report.bytes_imaged, procfs.vma_count()):
        _compact(report, hugepages, keep)
    _count += 1
    report.generation = _count
    return None


def _compact(report: FreezeReport, hugepages: bool, keep: list[tuple[int, int]]) -> None:
    """Image everything anew. The old files hold their memory until the last of their mappings is gone."""
    from clonal.image import checks, core

    needed = report.bytes_imaged + sum(each.mapped_bytes for each in report.old_generations)
    if reason := checks.no_room(needed):
        report.degraded.append(f"older generations stay: to image all anew takes more memory; {reason}")
        return
    found, _ = core.switch(hugepages=hugepages, compact=True, keep=keep)
    if not found["call"]:
        report.bytes_imaged = report.huge_bytes = 0
        _account(report, found)
        report.peak_extra_bytes = max(report.peak_extra_bytes, found["bytes"])


def _account(report: FreezeReport, found: dict[str, Any]) -> None:
    """Adds what one run of the C core did to the report, and its file to the generations."""
    from clonal.image import core, generations

    if found["failed_reason"]:  # it was stoppable a moment ago
        raise FreezeRefused([_unstoppable(found["failed_tid"], found["failed_reason"])])
    report.bytes_imaged += found["bytes"]
    report.huge_bytes += found["huge_bytes"]
    report.vmas_before = report.vmas_before or found["vmas_before"]
    report.peak_extra_bytes = max(report.peak_extra_bytes, found["peak"])
    report.kept = [Kept(REASONS[reason], size) for reason, size in found["kept"]]
    if core.GAP_PAGES < found["gap"] < 1 << 30:
        report.degraded.append(
            f"gaps of up to {found['gap']} pages were filled to stay within vm.max_map_count"
        )
    if found["collapse_failed"]:
        report.degraded.append(
            f"{found['collapse_failed'] >> 20} MB could not be made huge pages (memory is fragmented)"
        )
    if found["image_errno"]:
        reason = f"{found['image_call']}: {_errno_text(found['image_errno'])}"
        report.degraded.append(f"{reason}; the image is good, what it does not hold stays as it was")
    if found["inode"]:
        generations.add(found["inode"], found["file_bytes"])
    report.old_generations = generations.older(found["inode"])


def _collapse_in_place(report: FreezeReport, reason: str, hugepages: bool) -> None:
    from clonal import _native
    from clonal.image import core
    from clonal.kernel.probe import KERNEL

    if not hugepages or not core.huge_pages_work():
        report.degraded.append(
            f"no image: {reason}; nor huge pages: nothing was moved and fork costs what it did"
        )
        return
    done, refused = _native.collapse(KERNEL.page_size, KERNEL.hpage_size)
    report.degraded.append(
        f"no image: {reason}; {done >> 20} MB were backed by huge pages in place instead "
        "(fork copies one entry for 2 MiB, about a quarter of the time)"
    )
    if refused:
        report.degraded.append(f"{refused >> 20} MB could not be made huge pages")


def _errno_text(errno: int) -> str:
    import os

    return os.strerror(errno)
