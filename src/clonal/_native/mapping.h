/* The mappings of this process, walked without libc, locks or allocation (so from any thread, a
 * signal handler or a forked child). */
#ifndef CLONAL_MAPPING_H
#define CLONAL_MAPPING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What an image mapping is called in /proc/self/maps. */
#define IMAGE_PATH "/memfd:clonal-image (deleted)"

struct mapping {
    uintptr_t start, end;
    int prot;    /* PROT_READ | PROT_WRITE | PROT_EXEC */
    bool shared; /* MAP_SHARED */
    bool file;   /* has an inode */
    bool image;  /* a private mapping of an image memfd */
};

struct mapping_walk {
    int fd;          /* owned: /proc/self/maps */
    bool query;      /* the kernel answers PROCMAP_QUERY; otherwise the text is read */
    uintptr_t next;  /* mappings that end at or below it are left out */
    size_t at, fill; /* the unread part of buffer */
    char buffer[512];
};

/* Tests force the text reader, which kernels before 6.11 need. */
extern bool mapping_walk_text_only;

/* Starts a walk over the mappings that end above `from`. Returns 0, or the negative errno of open. */
int mapping_walk_open(struct mapping_walk *walk, uintptr_t from);

/* Stores the next mapping and returns true; false at the end. */
bool mapping_walk_next(struct mapping_walk *walk, struct mapping *mapping);

void mapping_walk_close(struct mapping_walk *walk);

#endif
