"""`freeze()`: move this process's private memory into an image that fork need not copy.

The order of things: refuse what is unsafe, let thread pools stop by their fork handlers, prepare the
heap (immortal objects, hashes, pools), then hand over to the C core, which stops the remaining
threads, copies every private page into a sealed memory file and maps it back at the same addresses.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from clonal.errors import FreezeRefused
from clonal.image.report import REASONS, FreezeReport, Generation, Kept

# Pages of an absent run that is filled so that two runs become one VMA (64: 457 VMAs became 126).
GAP_PAGES = 64
_EVERY_GAP = 1 << 30  # with the guard "holes" off
# Left free below vm.max_map_count for the program itself.
SPARE_VMAS = 4096
# A re-freeze images everything anew where earlier generations hold more than this share of what is
# mapped (and more than the minimum), or where there are more than twice the VMAs of the first freeze.
SUPERSEDED_SHARE = 0.25
SUPERSEDED_MINIMUM = 64 << 20

_generations: dict[int, int] = {}  # inode → bytes in the file
_first_vmas = 0
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
        return FreezeReport(degraded=[f"nothing was frozen: Clonal works on Linux only, this is {sys.platform}"])
    started = time.perf_counter()
    report = FreezeReport()
    _refuse_unsafe(threads, report)
    _prepare_heap(report, immortal, exclude)
    if trial is not None:
        _learn(report, trial)
    _make_image(report, hugepages)
    report.seconds = time.perf_counter() - started
    return report


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

    return f"thread {checks.thread_name(tid)} cannot be stopped: {reason}; end it before the freeze"


def _prepare_heap(report: FreezeReport, immortal: bool, exclude: Sequence[object]) -> None:
    try:
        from clonal.image import heap
    except ImportError:  # lands in a moment
        return
    found = heap.prepare(immortal=immortal, exclude=exclude)
    report.immortal_objects = found.immortal_objects
    report.finaliser_types = found.finaliser_types
    report.hashes_computed = found.hashes_computed
    report.pools_detached = found.pools_detached
    report.kept_objects += found.kept
    report.degraded += found.degraded


def _learn(report: FreezeReport, trial: Callable[[], Any]) -> None:
    from clonal.image.trial import learn

    report.hot = learn(trial)


def _make_image(report: FreezeReport, hugepages: bool) -> None:
    from clonal.image import checks
    from clonal.kernel import procfs

    reason = checks.impossible()
    if reason is None:
        with checks.file_size_unlimited():
            reason = _image(report, hugepages)
    if reason is not None:
        _collapse_in_place(report, reason, hugepages)
    report.vmas_after = procfs.vma_count()


def _image(report: FreezeReport, hugepages: bool) -> str | None:
    """Make the image, a second time and as a whole if older generations hold too much. Returns why none
    could be made."""
    global _first_vmas, _count
    from clonal.kernel import procfs

    found = _freeze_once(report, hugepages, compact=False)
    if found["call"]:
        return f"{found['call']}: {_errno_text(found['errno'])}"
    _account(report, found)
    vmas = procfs.vma_count()
    _first_vmas = _first_vmas or vmas
    if _generations and _too_fragmented(report, vmas):
        found = _freeze_once(report, hugepages, compact=True)
        if not found["call"]:
            _account(report, found)
    _count += 1
    report.generation = _count
    return None


def _too_fragmented(report: FreezeReport, vmas: int) -> bool:
    mapped = sum(g.mapped_bytes for g in report.old_generations) + report.bytes_imaged
    limit = max(SUPERSEDED_MINIMUM, int(mapped * SUPERSEDED_SHARE))
    return report.superseded_bytes > limit or vmas > 2 * _first_vmas + 64


def _freeze_once(report: FreezeReport, hugepages: bool, compact: bool) -> dict[str, Any]:
    from clonal import _native
    from clonal.image import checks, guards
    from clonal.kernel.probe import KERNEL

    off = guards.disabled()
    huge = hugepages and KERNEL.madv_collapse and KERNEL.hpage_size > 0
    if hugepages and not huge and not compact:
        report.degraded.append("no huge pages: MADV_COLLAPSE (Linux 6.1) is not available; the image has 4 KiB pages")
    try:
        report.degraded += guards.install()
    except OSError as error:
        return {"call": "guarding madvise and mremap", "errno": error.errno}
    found = _native.freeze(
        page=KERNEL.page_size,
        block=KERNEL.hpage_size or 2 << 20,
        huge=huge,
        compact=compact,
        gap=_EVERY_GAP if "holes" in off else GAP_PAGES,
        keep=_always_written() + guards.keep(),
        reserve=KERNEL.overcommit_mode == 2,
        numa=_many_nodes(),
        max_vmas=_max_map_count() - SPARE_VMAS,
        stop=bool(checks.other_threads()),
        fence="realloc" not in off,
    )
    report.degraded += guards.refresh()
    if found["failed_tid"]:  # it was stoppable a moment ago
        raise FreezeRefused([_unstoppable(found["failed_tid"], found["failed_reason"])])
    return found


def _account(report: FreezeReport, found: dict[str, Any]) -> None:
    """Adds what one run of the C core did to the report, and its file to the generations."""
    report.bytes_imaged += found["bytes"]
    report.huge_bytes += found["huge_bytes"]
    report.vmas_before = report.vmas_before or found["vmas_before"]
    report.peak_extra_bytes = max(report.peak_extra_bytes, found["peak"])
    report.kept = [Kept(REASONS[reason], size) for reason, size in found["kept"]]
    if found["gap"] > GAP_PAGES:
        report.degraded.append(f"gaps of up to {found['gap']} pages were filled to stay within vm.max_map_count")
    if found["collapse_failed"]:
        report.degraded.append(f"{found['collapse_failed'] >> 20} MB could not be made huge pages (memory is fragmented)")
    if found["image_errno"]:
        report.degraded.append(
            f"{found['image_call']}: {_errno_text(found['image_errno'])}; what was not yet imaged stays as it was"
        )
    if found["inode"]:
        _generations[found["inode"]] = found["file_bytes"]
    _find_generations(report, found["inode"])


def _find_generations(report: FreezeReport, newest: int) -> None:
    from clonal.kernel import procfs

    mapped: dict[int, int] = {}
    for vma in procfs.maps():
        if vma.inode in _generations and vma.path.startswith("/memfd:clonal-image"):
            mapped[vma.inode] = mapped.get(vma.inode, 0) + vma.size
    for inode in [inode for inode in _generations if inode not in mapped]:
        del _generations[inode]
    report.old_generations = [
        Generation(inode, size, mapped[inode]) for inode, size in _generations.items() if inode != newest
    ]


def _collapse_in_place(report: FreezeReport, reason: str, hugepages: bool) -> None:
    from clonal import _native
    from clonal.kernel.probe import KERNEL

    if not hugepages or not KERNEL.madv_collapse:
        report.degraded.append(f"no image: {reason}; nor huge pages: nothing was moved and fork costs what it did")
        return
    done, refused = _native.collapse(KERNEL.page_size, KERNEL.hpage_size)
    report.degraded.append(
        f"no image: {reason}; {done >> 20} MB were backed by huge pages in place instead "
        "(fork copies one entry for 2 MiB, about a quarter of the time)"
    )
    if refused:
        report.degraded.append(f"{refused >> 20} MB could not be made huge pages")


def _always_written() -> list[tuple[int, int]]:
    """The data of libc and of the dynamic linker: every fork writes there (locks, handler lists)."""
    from clonal.kernel import procfs

    names = ("/libc.so", "/libc-", "/ld-linux", "/ld-musl")
    ranges = []
    previous = False
    for vma in procfs.maps():
        named = any(name in vma.path for name in names)
        bss = previous and not vma.path
        if (named or bss) and vma.writable and vma.private:
            ranges.append((vma.start, vma.end))
        previous = named and vma.writable
    return ranges


def _errno_text(errno: int) -> str:
    import os

    return os.strerror(errno)


def _max_map_count() -> int:
    with open("/proc/sys/vm/max_map_count", encoding="ascii") as file:
        return int(file.read())


def _many_nodes() -> bool:
    try:
        with open("/sys/devices/system/node/possible", encoding="ascii") as file:
            return file.read().strip() != "0"
    except OSError:
        return False
