/* mremap on image pages, as on the anonymous memory that they replaced.
 *
 * mremap would grow a private file mapping into its file, where no one can free what is written, or
 * even only read (mm/mremap.c: vma_to_resize). Here growth is anonymous memory: behind the image where
 * there is room, else all of it elsewhere. */
#define _GNU_SOURCE
#include "interpose.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "mapping.h"
#include "sys.h"

/* Newer than the headers of the oldest supported systems. */
enum { MOVE_DONTUNMAP = 4 };
#define MAP_NOREPLACE 0x100000 /* MAP_FIXED_NOREPLACE */

_Atomic unsigned long guard_moved;

/* What mremap would work on. */
struct region {
    size_t pieces;
    bool image;   /* some of it is image */
    bool private; /* all of it is mapped, private, and image or anonymous */
    bool alike;   /* with the same protection everywhere */
    int prot;
};

/* Returns 0 or the negative errno of reading the mappings. */
static long survey(uintptr_t start, uintptr_t end, struct region *region)
{
    struct mapping_walk walk;
    struct mapping mapping;
    uintptr_t reached = start;
    long result = mapping_walk_open(&walk, start);

    if (result < 0)
        return result;
    *region = (struct region){.private = true, .alike = true};
    while (reached < end && mapping_walk_next(&walk, &mapping) && mapping.start <= reached) {
        region->alike = region->alike && (!region->pieces || region->prot == mapping.prot);
        region->prot = mapping.prot;
        region->image = region->image || mapping.image;
        region->private = region->private && !mapping.shared && (mapping.image || !mapping.file);
        region->pieces++;
        reached = mapping.end;
    }
    region->private = region->private && reached >= end;
    mapping_walk_close(&walk);
    return 0;
}

/* The image stays where it is and anonymous memory follows it: nothing is copied. Returns `old` or
 * a negative errno. */
static long grow_in_place(uintptr_t old, size_t old_length, size_t new_length, int prot)
{
    uintptr_t end = old + old_length;
    long got = SYS(SYS_mmap, end, new_length - old_length, prot, PRIVATE_MEMORY | MAP_NOREPLACE, -1, 0);

    if (got >= 0 && (uintptr_t)got != end) { /* before Linux 4.17 the address is a wish */
        SYS(SYS_munmap, got, new_length - old_length);
        return -ENOMEM;
    }
    return got < 0 ? -ENOMEM : (long)old;
}

/* Copies to fresh memory, at `new` if MREMAP_FIXED asks so, and frees or empties the old place. */
static long move_away(uintptr_t old, size_t old_length, size_t new_length, unsigned long flags, uintptr_t new,
                      int prot)
{
    size_t length = old_length < new_length ? old_length : new_length;
    long copy = guard_copy(old, length, new_length, prot);

    if (copy < 0)
        return copy;
    if (flags & MREMAP_FIXED) {
        long result = SYS(SYS_mremap, copy, new_length, new_length, MREMAP_MAYMOVE | MREMAP_FIXED, new);
        if (result < 0) {
            SYS(SYS_munmap, copy, new_length);
            return result;
        }
        copy = result;
    }
    if (flags & MOVE_DONTUNMAP)
        guard_madvise(old, old_length, MADV_DONTNEED);
    else
        SYS(SYS_munmap, old, old_length);
    atomic_fetch_add_explicit(&guard_moved, 1, memory_order_relaxed);
    return copy;
}

static bool overlap(uintptr_t a, size_t a_length, uintptr_t b, size_t b_length)
{
    return a < b + b_length && b < a + a_length;
}

long guard_mremap(uintptr_t old, size_t old_length, size_t new_length, unsigned long flags, uintptr_t new)
{
    const unsigned long known = MREMAP_MAYMOVE | MREMAP_FIXED | MOVE_DONTUNMAP;
    bool placed = (flags & (MREMAP_FIXED | MOVE_DONTUNMAP)) != 0;
    size_t old_size = guard_round_up(old_length), new_size = guard_round_up(new_length);
    struct region region;
    long result;

    /* What is an error anyway is the kernel's to name. */
    if (old & (guard_page_size - 1) || !old_size || !new_size || flags & ~known ||
        (placed && !(flags & MREMAP_MAYMOVE)) || (flags & MOVE_DONTUNMAP && old_size != new_size) ||
        (flags & MREMAP_FIXED && (new & (guard_page_size - 1) || overlap(old, old_size, new, new_size))))
        goto kernel;
    if (new_size <= old_size && !placed)
        goto kernel; /* nothing moves, the tail is unmapped */
    if (survey(old, old + old_size, &region) < 0)
        return -ENOMEM;
    if (!region.image)
        extents_stale();
    if (!region.private || (!region.image && region.pieces == 1))
        goto kernel;
    if (!region.alike)
        return -EFAULT;
    if (!placed) {
        result = grow_in_place(old, old_size, new_size, region.prot);
        if (result >= 0 || !(flags & MREMAP_MAYMOVE))
            return result;
    }
    return move_away(old, old_size, new_size, flags, new, region.prot);
kernel:
    return SYS(SYS_mremap, old, old_length, new_length, flags, new);
}
