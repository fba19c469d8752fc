"""One run of the C core: its arguments from this kernel and process, with the guards up."""

from __future__ import annotations

from typing import Any

# Pages of an absent run that is filled so that two runs become one VMA (64: 457 VMAs became 126).
GAP_PAGES = 64
_EVERY_GAP = 1 << 30  # with the guard "holes" off
# Left free below vm.max_map_count for the program itself.
SPARE_VMAS = 4096


def huge_pages_work() -> bool:
    """Whether this kernel can make huge pages of a memory file (MADV_COLLAPSE, Linux 6.1)."""
    from clonal.kernel.probe import KERNEL

    return KERNEL.madv_collapse and KERNEL.hpage_size > 0


def block(hugepages: bool) -> int:
    """The size of the pieces that are imaged again if dirty, 0: whole mappings."""
    from clonal.kernel.probe import KERNEL

    return KERNEL.hpage_size if hugepages and huge_pages_work() else 0


def switch(
    *, hugepages: bool, compact: bool = False, keep: list[tuple[int, int]] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Move all private memory that is not in an image yet, or is dirty, into one.

    Returns what `_native.freeze` says, and notes on what was degraded. `compact` images everything anew;
    `keep` are ranges to leave as they are. Never raises for what the kernel refuses.
    """
    from clonal import _native
    from clonal.image import guards

    given = arguments(hugepages=hugepages, compact=compact, keep=keep or [])
    try:
        notes = guards.install()
    except OSError as error:
        return {"call": "guarding madvise and mremap", "errno": error.errno}, []
    given["keep"] = given["keep"] + guards.keep()
    found = _native.freeze(**given)
    return found, notes + guards.refresh()


def arguments(*, hugepages: bool, compact: bool, keep: list[tuple[int, int]]) -> dict[str, Any]:
    """The keyword arguments of `_native.freeze` for this process now."""
    from clonal.image import checks, guards
    from clonal.kernel.probe import KERNEL

    off = guards.disabled()
    return {
        "page": KERNEL.page_size,
        "block": KERNEL.hpage_size or 2 << 20,
        "huge": hugepages and huge_pages_work(),
        "compact": compact,
        "gap": _EVERY_GAP if "holes" in off else GAP_PAGES,
        "keep": keep + _always_written(),
        "reserve": KERNEL.overcommit_mode == 2,
        "numa": _many_nodes(),
        "max_vmas": _max_map_count() - SPARE_VMAS,
        "stop": bool(checks.other_threads()),
        "fence": "realloc" not in off,
    }


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


def _max_map_count() -> int:
    with open("/proc/sys/vm/max_map_count", encoding="ascii") as file:
        return int(file.read())


def _many_nodes() -> bool:
    try:
        with open("/sys/devices/system/node/possible", encoding="ascii") as file:
            return file.read().strip() != "0"
    except OSError:
        return False
