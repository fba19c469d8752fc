"""Topics about programs: starting another one, and what an interpreter writes when it reads."""

from __future__ import annotations

from clonal.explain.topic import Tell, Topic

EXEC = Topic(
    "exec",
    "fork and exec: what was copied is thrown away at once",
    (
        Tell(
            "parent: map heap anon 4\nparent: write heap 0-3",
            "mm/memory.c do_anonymous_page",
            "A process with four pages of its own, all writable.",
        ),
        Tell(
            "parent: fork child",
            "kernel/fork.c dup_mmap, mm/memory.c copy_present_ptes",
            "Entries are copied and write-protected in both; the mapping is charged a second time.",
        ),
        Tell(
            "child: exec",
            "fs/exec.c begin_new_exec, exec_mmap",
            "The child takes a new, empty address space. Its copied tables and entries are torn down as at "
            "exit; none of them was ever used.",
        ),
        Tell(
            "parent: write heap 0-3",
            "mm/memory.c do_wp_page, wp_page_reuse",
            "Nobody shares the pages any more, but the parent's entries are still write-protected: one "
            "fault for each page that it writes. The fork goes on costing after the child is gone.",
        ),
        Tell("child: exit\nparent: wait child", "kernel/exit.c do_exit", "The new program ends."),
    ),
    "To start another program, use vfork or posix_spawn (clonal.launch): neither copies an entry.",
)

VFORK = Topic(
    "vfork",
    "vfork lends the address space, and copies nothing at any size",
    (
        Tell(
            "parent: map heap anon 4\nparent: write heap 0-2",
            "mm/memory.c do_anonymous_page",
            "A process with some memory.",
        ),
        Tell(
            "parent: vfork child",
            "kernel/fork.c copy_mm (CLONE_VM), wait_for_vfork_done (CLONE_VFORK)",
            "The child has no address space of its own: it runs in the parent's, with the same tables. The"
            " thread that called sleeps until the child execs or exits. Nothing is copied, nothing "
            "charged.",
        ),
        Tell(
            "child: write heap 0",
            "none: no fault",
            "The entry is writable as before, and the write changes the parent's memory. No copy-on-write "
            "protects the parent here: hence the rule to do next to nothing between vfork and exec.",
        ),
        Tell(
            "child: write heap 3",
            "mm/memory.c do_anonymous_page",
            "A new page is the parent's as well.",
        ),
        Tell(
            "child: exec",
            "fs/exec.c exec_mmap, kernel/fork.c mm_release, complete_vfork_done",
            "The child leaves for an address space of its own and the parent wakes. All four pages are "
            "there, and writable.",
        ),
        Tell(
            "parent: write heap 0-3",
            "none: no fault",
            "Compare `clonal explain exec`: after a fork each of these writes would have faulted.",
        ),
        Tell("child: exit\nparent: wait child", "kernel/exit.c do_exit", "The new program ends."),
    ),
    "vfork takes 10 to 24 µs whatever the size of the process. CLONE_VM shares memory; it does not switch "
    "copy-on-write off.",
)

REFCOUNT = Topic(
    "refcount",
    "CPython writes a reference count to read an object, so reading copies",
    (
        Tell(
            "parent: map objects anon 8\nparent: write objects 0-7",
            "mm/memory.c do_anonymous_page",
            "An interpreter has filled eight pages with objects. Each starts with its reference count.",
        ),
        Tell(
            "parent: fork worker",
            "mm/memory.c copy_present_ptes",
            "A worker is forked: it shares all of them.",
        ),
        Tell(
            "worker: write objects 0-7",
            "CPython Include/refcount.h Py_INCREF; mm/memory.c wp_page_copy",
            "The worker does `for each in objects: pass`. To hold an object it adds one to its count, "
            "which is a write to its page: all eight are copied, by code that only reads.",
            probe="refcount",
        ),
        Tell(
            "worker: exit\nparent: wait worker\nparent: fork second",
            "mm/memory.c copy_present_ptes",
            "The parent makes its objects immortal before it forks again (CPython ≥ 3.12, PEP 683; "
            "clonal.freeze()): their counts are never written.",
        ),
        Tell(
            "second: read objects 0-7",
            "CPython Include/refcount.h _Py_IsImmortal",
            "The same loop. Py_INCREF sees the immortal value and leaves it: no write, no fault, no copy.",
        ),
    ),
    "gc.freeze() alone spares the collector's headers, not the counts. clonal.freeze() makes what is there"
    " immortal.",
)
