"""Topics about memory with a file behind it: the page cache, shared memory, images."""

from __future__ import annotations

from clonal.explain.topic import Tell, Topic

PRIVATE_FILE = Topic(
    "private-file",
    "a private mapping of a file: read from the page cache, copied at each first write",
    (
        Tell(
            "parent: map data file 6\nparent: read data 0",
            "mm/memory.c do_read_fault, do_fault_around",
            "One fault maps what is in the page cache around the page.",
        ),
        Tell(
            "parent: write data 0",
            "mm/memory.c do_wp_page, wp_page_copy",
            "The page cache is everybody's. Though no other process maps the frame, a private write to it "
            "is always copied, never reused. The file does not change.",
        ),
        Tell(
            "other: map data file 6 data\nother: read data 0",
            "mm/filemap.c filemap_map_pages",
            "Another process sees the file as it is, in the same frames. That is how all processes share "
            "their libraries' code.",
        ),
        Tell(
            "other: map later file 6 later\nother: write later 2",
            "mm/memory.c do_cow_fault",
            "A write as the first access takes a frame and copies the page at once: one fault instead of "
            "two. Nothing around it is mapped.",
        ),
        Tell(
            "parent: fork child",
            "mm/memory.c vma_needs_copy, copy_present_ptes",
            "One page of data was written privately, so now all present entries are copied, those of the "
            "page cache too.",
        ),
        Tell(
            "child: write data 0-1",
            "mm/memory.c do_wp_page",
            "Page 0 is anonymous memory shared with the parent, page 1 is in the page cache: each is copied.",
        ),
    ),
    "A private file mapping costs fork nothing until its first private write.",
)

SHARED_MEMORY = Topic(
    "shared-memory",
    "shared memory is never copied: what one writes all see",
    (
        Tell(
            "parent: map pool shared 4\nparent: write pool 0-1",
            "mm/shmem.c shmem_fault, mm/memory.c do_shared_fault",
            "MAP_SHARED without a file is a memory file without a name: its pages are in the page cache.",
        ),
        Tell(
            "parent: fork child",
            "mm/memory.c vma_needs_copy",
            "Entries of a shared mapping are not copied. The child has the mapping, and faults where it "
            "looks.",
        ),
        Tell(
            "child: write pool 0",
            "mm/memory.c do_shared_fault",
            "The child's write maps the very frame that the parent has, writable (w). No copy: the parent "
            "sees what is written.",
        ),
        Tell(
            "child: write pool 3",
            "mm/shmem.c shmem_get_folio_gfp",
            "A page that nobody had is made in the file, once for all.",
        ),
        Tell(
            "parent: read pool 3",
            "mm/memory.c do_read_fault",
            "The parent finds the page that the child made.",
        ),
        Tell(
            "parent: map own anon 4\nparent: write own 0-1\nparent: fork second\nsecond: write own 0-1\n"
            "second: write pool 0-1",
            "mm/memory.c wp_page_copy, do_shared_fault",
            "The same writes side by side: two pages of private memory are copied, of shared memory none.",
        ),
    ),
    "Where every child writes most of the data, shared memory is the way out; the writers must then agree on "
    "who writes what.",
)

IMAGE = Topic(
    "image",
    "an image: the same heap as a private file mapping, which fork skips",
    (
        Tell(
            "plain: map heap anon 512\nplain: write heap 0-511",
            "mm/memory.c do_anonymous_page",
            "A warm heap as usual: private anonymous memory, all of it written.",
        ),
        Tell(
            "plain: fork child",
            "mm/memory.c copy_present_ptes",
            "Fork copies its 512 entries, and would copy 262,144 for each GiB.",
        ),
        Tell(
            "frozen: map heap memfd-image 512",
            "mm/mmap.c do_mmap",
            "The same data frozen: it lies in a sealed memory file, mapped privately at the same "
            "addresses. Nothing in this mapping was written.",
        ),
        Tell(
            "frozen: fork clone",
            "mm/memory.c vma_needs_copy",
            "No anon_vma, so no entry is copied, however large the image is.",
        ),
        Tell(
            "clone: read heap 0-63",
            "mm/filemap.c filemap_map_pages",
            "The clone reads what it needs from the page cache, 16 pages with a fault, or 512 where the "
            "image has huge pages.",
        ),
        Tell(
            "clone: write heap 0,100",
            "mm/memory.c wp_page_copy, do_cow_fault",
            "A write copies 4 KiB, as after any fork. The image stays what it was.",
        ),
        Tell(
            "frozen: read heap 0-255\nfrozen: write heap 0\nfrozen: fork second",
            "mm/memory.c vma_needs_copy, copy_present_ptes",
            "And if the template does not stay idle? One private write gives the mapping an anon_vma, and "
            "the next fork copies every entry that is present.",
        ),
    ),
    "This is what clonal.freeze() does, and why a template waits without touching its memory.",
)
