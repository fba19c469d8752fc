/* Keeps allocators right on image pages: what madvise and mremap must do there, and how calls of
 * them reach us. guard.c (madvise) and remap.c (mremap) have the semantics, extents.c knows where the
 * image is, interpose.c redirects the calls. */
#ifndef CLONAL_INTERPOSE_H
#define CLONAL_INTERPOSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct extent {
    uintptr_t start, end;
};

/* Reserves the extents table and marks everything as possibly image, so that no call slips through
 * between the switch and extents_refresh(). Returns 0 or a negative errno. */
long extents_install(void);

/* Builds the table anew from /proc/self/maps. No libc, no allocation: may run while other threads
 * are stopped. Returns the number of extents or a negative errno (the table then stays as it was). */
long extents_refresh(void);

/* Notes that the table named memory which is no image any more; builds it anew after some of these, so
 * that an allocator which frees and reuses what was image once is slowed down for a moment only. */
void extents_stale(void);

/* True unless no byte of [start, end) can belong to the image. The table may name memory that the
 * program has unmapped since: a hint, never the truth. */
bool extents_hit(uintptr_t start, uintptr_t end);

/* The first extent that ends above `from`, or {0, 0}. */
struct extent extents_after(uintptr_t from);

/* The table's own mapping, {0, 0} before extents_install(). It is MAP_SHARED, so no image takes it. */
struct extent extents_mapping(void);

/* madvise, mremap and process_madvise as the kernel would do them if the image were anonymous
 * memory. Results as the kernel gives them (negative errno). */
long guard_madvise(uintptr_t start, size_t length, int advice);
long guard_mremap(uintptr_t old, size_t old_length, size_t new_length, unsigned long flags, uintptr_t new);
long guard_process_madvise(int pidfd, const void *vector, size_t count, int advice, unsigned int flags);

/* Once per process, before the first guarded call. */
void guard_install(size_t page_size, size_t most_mappings);

extern size_t guard_page_size;

static inline size_t guard_round_up(size_t length)
{
    return (length + guard_page_size - 1) & ~(guard_page_size - 1);
}

/* What the guards map in the image's stead. Like the image it is not reserved. */
#define PRIVATE_MEMORY (MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)

/* Fresh private memory of `new_length` bytes that begins with the bytes of [from, from + length),
 * readable or not. Returns its address or a negative errno. */
long guard_copy(uintptr_t from, size_t length, size_t new_length, int prot);

/* Image pieces replaced by anonymous memory, pieces zeroed by writing instead, and ranges that mremap
 * copied, in this process and those it was forked from. */
extern _Atomic unsigned long guard_replaced, guard_zeroed, guard_moved;

#endif
