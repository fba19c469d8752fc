/* The process's own VMAs as /proc/self/smaps tells them. */
#ifndef CLONAL_VMA_H
#define CLONAL_VMA_H

#include <stdbool.h>
#include <stdint.h>

#define IMAGE_NAME "clonal-image" /* the memfd's name; maps shows "/memfd:clonal-image (deleted)" */

enum vma_kind { VMA_ANON, VMA_FILE, VMA_IMAGE, VMA_STACK, VMA_KERNEL };

/* Why a private mapping with pages of its own stays as it is. Order matches REASONS in report.py. */
enum keep_reason {
    KEEP_NONE,
    KEEP_SHARED,     /* MAP_SHARED is not copied by fork anyway */
    KEEP_KERNEL,     /* vdso, vvar, vsyscall */
    KEEP_STACK,      /* a running stack */
    KEEP_EXECUTABLE, /* code, or memory a JIT writes */
    KEEP_UNREADABLE, /* PROT_NONE or write-only */
    KEEP_LOCKED,     /* mlock */
    KEEP_DONTFORK,   /* clones do not have it */
    KEEP_WIPEONFORK, /* clones see zeroes */
    KEEP_SEALED,     /* mseal */
    KEEP_SHADOW_STACK,
    KEEP_DROPPABLE,
    KEEP_DEVICE, /* pfn, io, mixed maps */
    KEEP_HUGETLB,
    KEEP_USERFAULTFD,
    KEEP_ASKED, /* a range the caller asked to keep: hot pages, kernel-written pages, scratch */
    KEEP_GUARD, /* guard pages: reading them kills */
    KEEP_COUNT,
};

struct vma {
    uint64_t start, end;
    uint64_t inode;
    uint64_t anonymous; /* bytes in pages of its own, present or swapped */
    uint64_t huge;      /* bytes mapped by 2 MiB entries of a file */
    int prot;
    int pkey;
    enum vma_kind kind;
    enum keep_reason keep;
    bool dont_dump, no_huge, mergeable, random; /* madvise flags to apply again */
};

/* Reads /proc/self/smaps into `vmas`. Returns their number, or a negative errno (-ENOSPC: more than
 * `capacity`). Uses raw system calls only. `buffer` is scratch of `buffer_size` bytes. */
long read_vmas(struct vma *vmas, long capacity, char *buffer, unsigned long buffer_size);

#endif
