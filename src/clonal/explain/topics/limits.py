"""Topics about limits: promises, the killer, many writers at a time, several nodes."""

from __future__ import annotations

from clonal.explain.topic import Tell, Topic

OVERCOMMIT = Topic(
    "overcommit",
    "what the kernel promises, and what vm.overcommit_memory changes",
    (
        Tell(
            "parent: map first anon 200000",
            "mm/util.c __vm_enough_memory",
            "The model's machine has 1 GiB, 262,144 pages. A private writable mapping is charged in full "
            "(Committed_AS), touched or not; it takes no frame.",
            probe="commit_one",
            apart="this machine is asked for shares of its own size instead",
        ),
        Tell(
            "parent: map second anon 200000",
            "mm/util.c __vm_enough_memory (OVERCOMMIT_GUESS)",
            "Mode 0 looks at each request alone: 400,000 pages are promised now, more than there are.",
        ),
        Tell(
            "parent: map third anon 300000",
            "mm/util.c __vm_enough_memory (OVERCOMMIT_GUESS)",
            "A request that by itself exceeds RAM and swap is refused. That is all that mode 0 refuses.",
            probe="commit_too_much",
        ),
        Tell(
            "parent: write first 0-3\nparent: fork child",
            "kernel/fork.c dup_mmap (vm_flags & VM_ACCOUNT)",
            "Fork charges every such mapping a second time, since the child could write to all of it. Each "
            "is looked at alone here, too.",
        ),
        Tell(
            "# vm.overcommit_memory is set to 2\nother: map one anon 1000",
            "mm/util.c __vm_enough_memory (OVERCOMMIT_NEVER)",
            "Now the sum counts: 800,000 pages are committed, the limit is "
            "half of RAM. What was promised stays; another 1000 pages are refused, with nearly all frames "
            "free.",
            settings={"overcommit": 2},
            probe="commit_mode",
        ),
        Tell(
            "child: write first 0",
            "mm/memory.c wp_page_copy",
            "Copy-on-write goes on as before: the mode is about promises, not about pages.",
        ),
    ),
    "Mode 2 does not switch copy-on-write off. It refuses early, even a fork, where mode 0 promises and "
    "leaves the rest to the OOM killer.",
    config={"ram": 1 << 30},
)

OOM = Topic(
    "oom",
    "whom the OOM killer takes: the process with the largest RSS, and sharing does not protect",
    (
        Tell(
            "# all processes are in a memory cgroup of 64 MiB\nparent: map heap anon 8192\n"
            "parent: write heap 0-8191",
            "mm/memcontrol.c charge_memcg",
            "A frame is charged to the group of the process that touches it first. The limit is 16,384 pages;"
            " the parent has half of them.",
        ),
        Tell(
            "parent: fork reader\nparent: fork writer",
            "mm/memory.c copy_present_ptes",
            "Fork takes page tables, no pages. Each of the three counts 8,192 pages in its RSS, though they "
            "are the same pages. The killer's points are RSS, swap and page tables: what a process maps, not "
            "what its end would free.",
        ),
        Tell(
            "writer: write heap 0-5999\nwriter: map more anon 8192\nwriter: write more 0-1699",
            "mm/memory.c wp_page_copy, do_anonymous_page",
            "The writer copies 6,000 pages and fills 1,700 more: 15,892 pages are charged now, and page "
            "tables. The copies add nothing to its RSS, since it mapped those pages before.",
            probe="oom_scores",
        ),
        Tell(
            "writer: write more 1700-2499",
            "mm/memcontrol.c mem_cgroup_out_of_memory, mm/oom_kill.c select_bad_process, oom_badness",
            "800 more do not fit, and nothing can be reclaimed, for without swap anonymous memory has no "
            "other place. Of the group's processes the one with most points is killed, here the "
            "writer. Had the reader or the parent been larger, one of them would have been, though most of "
            "its pages would have stayed with the others. An oom_score_adj of 1000 offers a process first, "
            "−1000 spares it.",
            press=True,
        ),
        Tell(
            "reader: write heap 0-5999",
            "mm/memory.c do_wp_page",
            "There is room again, and the next writer copies as ever.",
        ),
    ),
    "A template and its clones all count the pages that they share. The pages of an image are in the page "
    "cache, and count in the RSS of who maps them. Set oom_score_adj deliberately.",
    group=(64 << 20) // 4096,
)

_CHILDREN = [f"child{n}" for n in range(1, 5)]

STORM = Topic(
    "storm",
    "many children write the same pages at a time",
    (
        Tell(
            "parent: map heap anon 6\nparent: write heap 0-5\n"
            + "\n".join(f"parent: fork {child}" for child in _CHILDREN),
            "kernel/fork.c dup_mmap",
            "Four children share six frames with their parent.",
        ),
        Tell(
            "\n".join(f"{child}: write heap 0-5" for child in _CHILDREN),
            "mm/memory.c wp_page_copy",
            "All write all pages: 24 faults, 24 copies. Where they run on several cores at the same time, "
            "what they now compete for is memory bandwidth and the locks of the page allocator.",
        ),
        Tell(
            "\n".join(
                [f"{child}: exit" for child in _CHILDREN] + [f"parent: wait {child}" for child in _CHILDREN]
            )
            + "\nparent: write heap 0-5\nparent: fork touched\ntouched: write heap 0-5",
            "mm/memory.c do_wp_page",
            "Does it help to touch the pages in the parent first? The parent reuses its six, and the child"
            " forked after that copies its six all the same.",
        ),
        Tell(
            "touched: exit\nparent: wait touched\nparent: fork ready\nready: madvise heap 0-5 populate_write",
            "mm/madvise.c madvise_populate",
            "MADV_POPULATE_WRITE in the child copies the same pages, but in one call, before it is asked "
            "to serve: the storm is moved to where nobody waits.",
        ),
        Tell(
            "ready: write heap 0-5",
            "none: no fault",
            "Its requests write to pages that are its own by now. No fault is left.",
        ),
        Tell(
            "parent: map pool shared 6\nparent: write pool 0-5\nparent: fork last\nlast: write pool 0-5",
            "mm/memory.c do_shared_fault",
            "Or share what all of them write: a shared mapping is mapped by faults, but never copied.",
        ),
    ),
    "What helps: populate in the child, shared memory, DONTFORK or WIPEONFORK for what it does not need, "
    "or writing less.",
)

NUMA = Topic(
    "numa",
    "on which node a copy lies: where the writer runs, or where its policy says",
    (
        Tell(
            "# parent runs on node 0\nparent: map heap anon 4\nparent: write heap 0-3",
            "mm/mempolicy.c get_task_policy, alloc_pages_mpol",
            "The model's machine has two nodes. The parent has no memory policy, so each frame comes from the"
            " node of the CPU that takes the fault.",
            nodes={"parent": 0},
            probe="nodes",
        ),
        Tell(
            "parent: fork child\n# child moves to node 1\nchild: read heap 0-3",
            "mm/memory.c copy_present_ptes",
            "Fork copies entries, and the child reads the parent's frames across the interconnect. Reading "
            "moves nothing, and automatic NUMA balancing leaves shared copy-on-write pages where they are.",
            nodes={"child": 1},
        ),
        Tell(
            "child: write heap 0",
            "mm/memory.c wp_page_copy, mm/mempolicy.c vma_alloc_folio_noprof",
            "Who writes takes the frame for the copy, and the writer runs on node 1: the copy is near to it.",
        ),
        Tell(
            "# parent moves to node 1\nparent: write heap 0",
            "mm/memory.c wp_page_reuse",
            "The parent is the last with the old frame and reuses it. A reuse never moves a page: the frame "
            "stays on node 0, far from where its owner runs now.",
            nodes={"parent": 1},
        ),
        Tell(
            "# child: set_mempolicy(MPOL_INTERLEAVE, nodes 0 and 1)\nchild: write heap 1-3",
            "mm/mempolicy.c get_vma_policy, interleave_nid",
            "A policy goes before the CPU. Interleaving goes by the page's place in the mapping, whoever "
            "writes it and wherever that runs: so the copies alternate between the nodes.",
            policies={"child": "interleave"},
            probe="numa_maps",
        ),
    ),
    "A clone pulls its copies to where it runs; what it only reads stays where the template was.",
    config={"nodes": 2},
)
