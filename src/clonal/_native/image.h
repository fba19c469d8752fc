/* Copies planned pieces into a memory file and maps it over them. */
#ifndef CLONAL_IMAGE_H
#define CLONAL_IMAGE_H

#include "plan.h"

struct image {
    /* in */
    struct plan *plan;
    bool reserve;      /* account the image's mappings (overcommit mode 2) */
    bool numa;         /* more than one node: carry memory policies over */
    uint64_t heap_end; /* brk, rounded up to a page: what follows is the heap's to grow into */
    bool guard_chunks; /* put a VMA boundary into each malloc chunk */
    /* out */
    int memfd;
    uint64_t inode, file_bytes;
    uint64_t bytes, huge_bytes; /* switched; of these filled as huge pages */
    uint64_t collapse_failed;   /* bytes that should have become huge */
    uint64_t peak;              /* bytes held twice at the worst moment */
    long error;                 /* negative errno of what ended it early, 0 if complete */
    const char *error_call;
    /* scratch */
    uint64_t staging, staging_size; /* PROT_NONE reserve, aligned to a huge page */
};

/* Makes the memory file. Sets error and memfd. */
void open_image(struct image *image);

/* Copies and switches every piece, then seals and closes the file. Raw system calls only, writes nothing but
 * *image, its plan's scratch and the pieces' copies. On failure what was switched stays switched, the rest
 * stays as it was; only memory that can neither be mapped back nor restored ends the process. */
void switch_pieces(struct image *image);

#endif
