"""Topics about private anonymous memory: what fork shares, and what ends the sharing."""

from __future__ import annotations

from clonal.explain.probes import no_huge_pages
from clonal.explain.topic import Tell, Topic

FORK = Topic(
    "fork",
    "what fork copies, and what it leaves to the child's faults",
    (
        Tell(
            "parent: map heap anon 4",
            "mm/mmap.c do_mmap",
            "A mapping says what may be there. It takes no memory and no page table.",
        ),
        Tell(
            "parent: write heap 0-2",
            "mm/memory.c do_anonymous_page",
            "Each first write faults. The kernel takes a frame, fills it with zeroes and makes an entry "
            "that lets writes through (w). The first entry also needs its page tables.",
        ),
        Tell(
            "parent: map code file 4\nparent: read code 0",
            "mm/memory.c do_fault_around, mm/filemap.c filemap_map_pages",
            "A read of a file's page maps what lies around it in the page cache, up to 16 pages, with one "
            "fault. Nothing in this mapping was written privately.",
        ),
        Tell(
            "parent: fork child",
            "kernel/fork.c dup_mmap, mm/memory.c vma_needs_copy, copy_present_ptes",
            "The child gets page tables of its own. The entries of heap are copied and lose their write "
            "permission in both processes (c). Nothing of code is copied, for nothing in it was written: "
            "the child starts there without entries. No page of memory is copied.",
        ),
        Tell("child: read heap 0-2", "none: no fault", "The entries are there, so reading costs nothing."),
        Tell(
            "child: read code 0",
            "mm/memory.c do_fault_around",
            "What fork left out is faulted in again, from the page cache: the same frames.",
        ),
        Tell(
            "child: write heap 3",
            "mm/memory.c do_anonymous_page",
            "Nobody had touched this page, so there was nothing to share: the child gets a zeroed frame, "
            "and the parent still has none.",
        ),
        Tell(
            "child: exit\nparent: wait child",
            "mm/mmap.c exit_mmap, mm/memory.c unmap_vmas",
            "Each entry of the child is undone; frames that nobody maps any more are free. That takes about "
            "as long as the fork. The parent's entries stay write-protected (c): nothing goes back to see "
            "who is left.",
        ),
    ),
    "Fork costs time for each entry that it copies, some 10 to 15 ms for each GiB written in 4 KiB pages, "
    "and memory for page tables only. Sharing the lower tables is On-demand-fork, which Linux does not have.",
)

WRITE = Topic(
    "write",
    "who writes to a shared page gets the copy",
    (
        Tell(
            "parent: map heap anon 4\nparent: write heap 0-3\nparent: fork child",
            "kernel/fork.c dup_mmap, mm/memory.c copy_present_ptes",
            "Parent and child map the same four frames; the entries of both are write-protected (c).",
        ),
        Tell(
            "child: write heap 0",
            "mm/memory.c do_wp_page, wp_page_copy",
            "The mapping allows the write, the entry does not: a fault. Two map the frame, so the kernel "
            "takes a new one, copies 4096 bytes and points the child's entry to it. The writer has the "
            "copy, the parent keeps the frame it had.",
        ),
        Tell(
            "parent: write heap 1",
            "mm/memory.c do_wp_page, wp_page_copy",
            "The parent's entries are write-protected too, so its write copies just as well. Were only the"
            " child's entries protected, as some texts have it, the child would see this write.",
        ),
        Tell("child: write heap 0", "none: no fault", "The page is the child's own and writable: no fault."),
        Tell(
            "child: write heap 1-3",
            "mm/memory.c do_wp_page",
            "Pages 2 and 3 are copied. Of page 1 the parent has its own copy already, so the child is "
            "alone with the old frame and takes it as it is.",
        ),
        Tell(
            "parent: write heap 0-3",
            "mm/memory.c do_wp_page, wp_page_reuse",
            "Of pages 0, 2 and 3 the parent is the last sharer: a fault each, to find that out, but no "
            "copy. Page 1 is writable already.",
        ),
    ),
    "Each page is copied at most once for each sharer but one. A write of one byte copies 4096.",
)

LAST_SHARER = Topic(
    "last-sharer",
    "the last process with a page takes it without a copy",
    (
        Tell(
            "parent: map heap anon 2\nparent: write heap 0-1\nparent: fork child\nchild: fork grandchild",
            "mm/memory.c copy_present_ptes",
            "Three processes map both frames; the second fork found the entries write-protected already "
            "and only counted one sharer more.",
        ),
        Tell(
            "grandchild: write heap 0",
            "mm/memory.c wp_page_copy",
            "Three map the frame: a copy for the writer. Two are left.",
        ),
        Tell(
            "child: write heap 0",
            "mm/memory.c wp_page_copy",
            "Two map the frame: a copy again. The parent is left.",
        ),
        Tell(
            "parent: write heap 0",
            "mm/memory.c do_wp_page, wp_can_reuse_anon_folio, wp_page_reuse",
            "The frame has no other user: it is marked exclusive to the parent and made writable. A fault, "
            "but no copy. A handler without this case would copy for nothing, and free the old frame.",
        ),
        Tell(
            "grandchild: exit\nchild: wait grandchild\nchild: exit\nparent: wait child",
            "mm/mmap.c exit_mmap",
            "The other sharers of page 1 end without having written to it.",
        ),
        Tell(
            "parent: write heap 1",
            "mm/memory.c wp_can_reuse_anon_folio",
            "It makes no difference whether the others wrote or ended: the last sharer reuses.",
        ),
    ),
    "A frame shared by n is copied at most n − 1 times. A reuse costs a fault, a third of a copy or less.",
)

ZERO_PAGE = Topic(
    "zero-page",
    "memory that was only read is one page of zeroes for all",
    (
        Tell(
            "parent: map heap anon 4\nparent: read heap 0-3",
            "mm/memory.c do_anonymous_page (my_zero_pfn)",
            "Reading what was never written maps the one zero page (z) in each place. That is nobody's "
            "memory and is in no RSS.",
        ),
        Tell(
            "parent: fork child",
            "mm/memory.c vma_needs_copy",
            "Only reads so far: the mapping has no anon_vma, so fork copies none of its entries.",
        ),
        Tell(
            "child: read heap 0",
            "mm/memory.c do_anonymous_page",
            "The child faults for itself and sees the same zero page.",
        ),
        Tell(
            "parent: write heap 0-1",
            "mm/memory.c wp_page_copy (is_zero_pfn)",
            "A write to the zero page gives a zeroed frame. Nothing has to be copied.",
        ),
        Tell(
            "parent: fork second",
            "kernel/fork.c dup_mmap, mm/memory.c copy_present_ptes",
            "Now something was written, and every present entry of the mapping is copied, those of the "
            "zero page too.",
        ),
        Tell(
            "second: write heap 0,3",
            "mm/memory.c do_wp_page",
            "Page 0 was written by the parent: it is copied. Page 3 shows the zero page: it is "
            "zero-filled. Pre-touching in the parent turned the cheaper into the dearer.",
        ),
    ),
    "calloc of a gigabyte costs nothing until it is written, and reading it first does not help.",
)

THP = Topic(
    "thp",
    "huge pages are forked by one entry and copied by small pages",
    (
        Tell(
            "parent: map heap thp 512\nparent: write heap 0",
            "mm/huge_memory.c do_huge_pmd_anonymous_page",
            "With MADV_HUGEPAGE, the first write fills 2 MiB with zeroes and maps them by one entry of the "
            "middle level (PMD, drawn as H). A table of small entries is put aside for the day on which the "
            "huge one has to be split; it counts among the page tables.",
        ),
        Tell(
            "parent: fork child",
            "mm/huge_memory.c copy_huge_pmd",
            "One entry is copied in place of 512, and write-protected in both; the child, too, has a table "
            "put aside. Fork of huge pages is some 30 times faster.",
        ),
        Tell(
            "child: write heap 3",
            "mm/huge_memory.c do_huge_pmd_wp_page, __split_huge_pmd",
            "The huge page is shared, and the kernel does not copy 2 MiB for one byte: the child's entry is "
            "split into 512 small ones, in the table put aside, and the one page is copied. The parent's "
            "entry stays huge, and so does the page itself.",
        ),
        Tell(
            "parent: write heap 7",
            "mm/huge_memory.c do_huge_pmd_wp_page, mm/memory.c wp_page_copy",
            "The parent has no more right to it than the child: its entry is split as well, and this page "
            "copied.",
        ),
        Tell(
            "child: exit\nparent: wait child\nparent: write heap 9",
            "mm/memory.c wp_can_reuse_anon_folio, __wp_can_reuse_large_anon_folio",
            "Only the parent still maps the huge page, by small entries. Since Linux 6.15 it reuses the page "
            "that it writes to; before, even the last sharer copied a page of a huge page whose entry was "
            "split.",
        ),
    ),
    "Huge pages make fork cheap. A write after it copies 4 KiB as ever, and splits the writer's entry.",
    lacking=no_huge_pages,
)
