/* Which pages go into the image: read from smaps and pagemap, decided before anything is touched. */
#ifndef CLONAL_PLAN_H
#define CLONAL_PLAN_H

#include "vma.h"

#include <stddef.h>

struct range {
    uint64_t start, end;
};

/* A run of one VMA that is copied into the image and mapped over. */
struct piece {
    uint64_t start, end;
    int vma;   /* index */
    bool huge; /* one or more whole 2 MiB blocks, filled as huge pages */
};

/* A malloc chunk that glibc mapped by itself (header at its first page). */
struct chunk {
    uint64_t start, size;
};

struct plan {
    /* in */
    uint64_t page, block; /* bytes: base page, huge page */
    bool huge;            /* use huge pages */
    bool compact;         /* image every dirty or clean piece of older images again */
    long gap;             /* absent pages to fill so as to join two runs */
    struct range *keep;   /* ranges that stay as they are, sorted */
    long keep_count;
    struct vma *vmas;
    long vma_count;
    int pagemap; /* open /proc/self/pagemap */
    /* out */
    struct piece *pieces;
    long piece_count, piece_capacity;
    struct chunk *chunks;
    long chunk_count, chunk_capacity;
    struct range *drops; /* clean runs of older images whose entries fork need not copy */
    long drop_count, drop_capacity;
    uint64_t kept[KEEP_COUNT]; /* bytes of own pages that stay, by reason */
    long error;                /* negative errno */
    /* scratch */
    uint64_t *entries;      /* one pagemap entry a page of a window */
    unsigned char *classes; /* enum page_class, likewise */
};

enum page_class {
    PAGE_ABSENT, /* nothing here, or zeroes: stays anonymous unless a gap is filled */
    PAGE_OWN,    /* a page of this process: goes into the image */
    PAGE_CLEAN,  /* a page of the file or of an older image, never written */
    PAGE_KEEP,   /* must stay as it is */
};

/* Pages classified at a time: a multiple of the pages of a huge page. */
#define WINDOW_PAGES 8192

/* Fills pieces, chunks, drops and kept. On failure `error` is set and nothing has been changed. */
void make_plan(struct plan *plan);

/* Classifies `count` <= WINDOW_PAGES pages of `vma` from `start` into plan->classes. */
void classify_pages(struct plan *plan, const struct vma *vma, uint64_t start, long count);

#endif
