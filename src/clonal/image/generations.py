"""The memory files that this process's image consists of, one for each run of the C core."""

from __future__ import annotations

from clonal.image.report import Generation
from clonal.kernel import procfs
from clonal.kernel.probe import KERNEL

# Everything is imaged anew where earlier generations hold, beyond what is mapped of them, more than this
# share of what is mapped (and more than the minimum), or where there are more than twice the VMAs of
# the first freeze (and some).
SUPERSEDED_SHARE = 0.25
SUPERSEDED_MINIMUM = 64 << 20
SPARE_VMAS = 64

_files: dict[int, int] = {}  # inode → bytes in the file
_first_vmas = 0


def add(inode: int, file_bytes: int) -> None:
    """Note a new memory file."""
    _files[inode] = file_bytes


def older(newest: int) -> list[Generation]:
    """The files still mapped but the newest. A file this module was not told of (the last settling of a
    template) counts with what is mapped of it."""
    mapped: dict[int, int] = {}
    for vma in procfs.maps():
        if vma.path.startswith("/memfd:clonal-image"):
            mapped[vma.inode] = mapped.get(vma.inode, 0) + vma.size
    for inode in [inode for inode in _files if inode not in mapped]:
        del _files[inode]
    return [
        Generation(inode, _files.get(inode, size), size) for inode, size in mapped.items() if inode != newest
    ]


def imaged_again(block: int) -> int:
    """At most so many bytes are written to a new file for the pages dirtied since: whole blocks, or whole
    mappings where `block` is 0. Their old files keep what they hold."""
    total = 0
    for each in procfs.smaps() if _files else ():  # reading it takes 20 ms per GB
        if each.vma.path.startswith("/memfd:clonal-image"):
            pages = each.sizes.get("Anonymous", 0) // KERNEL.page_size
            total += min(each.vma.size, pages * (block or each.vma.size))
    return total


def too_fragmented(generations: list[Generation], imaged_now: int, vmas: int) -> bool:
    """Whether the next image should be made anew as a whole: the stated bounds are passed."""
    global _first_vmas
    _first_vmas = _first_vmas or vmas
    mapped = sum(each.mapped_bytes for each in generations) + imaged_now
    superseded = sum(each.superseded_bytes for each in generations)
    limit = max(SUPERSEDED_MINIMUM, int(mapped * SUPERSEDED_SHARE))
    return superseded > limit or vmas > 2 * _first_vmas + SPARE_VMAS
