/* madvise on image pages, as on the anonymous memory that they replaced.
 *
 * Image memory is a private file mapping, for which Linux decides otherwise: MADV_DONTNEED brings
 * the file's old bytes back (mm/memory.c: zap_pte_range, then do_fault), MADV_FREE and
 * MADV_WIPEONFORK are refused (mm/madvise.c). Each call here starts from what the kernel says is
 * mapped now, since the table of extents is only a hint. Nothing outside the caller's own range is
 * ever changed, so calls need no lock: two threads that advise the same bytes race on any kernel. */
#define _GNU_SOURCE
#include "interpose.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "sys.h"
#include "mapping.h"

/* Newer than the headers of the oldest supported systems. */
enum { ADVICE_DONTNEED_LOCKED = 24, ADVICE_GUARD_INSTALL = 102 };

#define SMALL_PIECE (256ul << 10)

_Atomic unsigned long guard_replaced, guard_zeroed;

size_t guard_page_size = 4096;
static unsigned long most_holes = 16384;

void guard_install(size_t page_size, size_t most_mappings)
{
    guard_page_size = page_size;
    most_holes = most_mappings / 4;
}

static bool all_zero(const void *start, size_t length)
{
    const uint64_t *word = start, *end = (const uint64_t *)((const char *)start + length);
    uint64_t seen = 0;

    while (word < end && !seen) /* eight words a step: the compiler keeps them in registers */
        for (const uint64_t *stop = word + 8; word < stop; word++)
            seen |= *word;
    return !seen;
}

/* Zeroes a piece by writing; pages that are zero already stay unwritten. Returns 0 or -errno. */
static long zero_by_writing(const struct mapping *piece)
{
    bool open = (piece->prot & (PROT_READ | PROT_WRITE)) == (PROT_READ | PROT_WRITE);
    size_t length = piece->end - piece->start;
    long result = 0;

    if (!open)
        result = SYS(SYS_mprotect, piece->start, length, PROT_READ | PROT_WRITE);
    if (result < 0)
        return result;
    for (uintptr_t at = piece->start; at < piece->end; at += guard_page_size)
        if (!all_zero((void *)at, guard_page_size))
            __builtin_memset((void *)at, 0, guard_page_size);
    atomic_fetch_add_explicit(&guard_zeroed, 1, memory_order_relaxed);
    if (!open)
        result = SYS(SYS_mprotect, piece->start, length, piece->prot);
    return result;
}

/* Makes a piece of the image anonymous memory full of zeroes, with the same protection. A mapping
 * is limited in number: small pieces are written instead once a quarter of the limit is used, and
 * any piece where the kernel refuses. Returns 0 or a negative errno. */
static long discard_piece(const struct mapping *piece)
{
    size_t length = piece->end - piece->start;
    long result = -ENOMEM;

    if (length >= SMALL_PIECE || atomic_load_explicit(&guard_replaced, memory_order_relaxed) < most_holes)
        result = SYS(SYS_mmap, piece->start, length, piece->prot, PRIVATE_MEMORY | MAP_FIXED, -1, 0);
    if (result < 0)
        return zero_by_writing(piece);
    atomic_fetch_add_explicit(&guard_replaced, 1, memory_order_relaxed);
    return 0;
}

/* Copies whole pages, zeroes left as the fresh memory they are. */
static void copy_pages(uintptr_t to, uintptr_t from, size_t length)
{
    for (size_t done = 0; done < length; done += guard_page_size)
        if (!all_zero((void *)(from + done), guard_page_size))
            __builtin_memcpy((void *)(to + done), (void *)(from + done), guard_page_size);
}

long guard_copy(uintptr_t from, size_t length, size_t new_length, int prot)
{
    long fresh = SYS(SYS_mmap, 0, new_length, PROT_READ | PROT_WRITE, PRIVATE_MEMORY, -1, 0);
    long result = 0;

    if (fresh < 0)
        return fresh;
    if (!(prot & PROT_READ))
        result = SYS(SYS_mprotect, from, length, PROT_READ);
    if (result == 0)
        copy_pages((uintptr_t)fresh, from, length);
    if (!(prot & PROT_READ) && result == 0)
        result = SYS(SYS_mprotect, from, length, prot);
    if (result == 0 && prot != (PROT_READ | PROT_WRITE))
        result = SYS(SYS_mprotect, fresh, new_length, prot);
    if (result < 0)
        SYS(SYS_munmap, fresh, new_length);
    return result < 0 ? result : fresh;
}

/* Makes a piece of the image anonymous memory with the same bytes. Returns 0 or a negative errno. */
static long keep_piece(const struct mapping *piece)
{
    size_t length = piece->end - piece->start;
    long copy = guard_copy(piece->start, length, length, piece->prot), result;

    if (copy < 0)
        return copy;
    result = SYS(SYS_mremap, copy, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, piece->start);
    if (result < 0)
        SYS(SYS_munmap, copy, length);
    return result < 0 ? result : 0;
}

/* Zeroes [start, end) by a call that reports a bad address instead of faulting on it: for when
 * /proc/self/maps cannot be opened, so that the table alone says where the image is. */
static long zero_blindly(uintptr_t start, uintptr_t end)
{
    static const char zeroes[4096];
    long pid = SYS(SYS_getpid, 0), result = 0;

    for (uintptr_t at = start; at < end && result != -EPERM && result != -ENOSYS; at += sizeof zeroes) {
        struct iovec from = {(void *)zeroes, sizeof zeroes}, to = {(void *)at, sizeof zeroes};
        result = SYS(SYS_process_vm_writev, pid, &from, 1, &to, 1, 0);
    }
    return result == -EPERM || result == -ENOSYS ? -EAGAIN : 0;
}

static long discard_blindly(uintptr_t start, uintptr_t end)
{
    long result = 0;

    for (struct extent e = extents_after(start); e.end && e.start < end && result == 0;
         e = extents_after(e.end))
        if (e.start || e.end != UINTPTR_MAX) /* not the table that names everything */
            result = zero_blindly(e.start > start ? e.start : start, e.end < end ? e.end : end);
    return result;
}

static void cut(struct mapping *mapping, uintptr_t start, uintptr_t end)
{
    if (mapping->start < start)
        mapping->start = start;
    if (mapping->end > end)
        mapping->end = end;
}

/* Applies `change` to each piece of the image in [start, end). Returns 0, -ENXIO if there is none,
 * or the first negative errno; -EBADF if the mappings cannot be read. */
static long each_image_piece(uintptr_t start, uintptr_t end, long (*change)(const struct mapping *))
{
    struct mapping_walk walk;
    struct mapping mapping;
    long result = -ENXIO;

    if (mapping_walk_open(&walk, start) < 0)
        return -EBADF;
    while ((result == 0 || result == -ENXIO) && mapping_walk_next(&walk, &mapping) && mapping.start < end)
        if (mapping.image) {
            cut(&mapping, start, end);
            result = change(&mapping);
        }
    mapping_walk_close(&walk);
    if (result == -ENXIO)
        extents_stale();
    return result;
}

static long is_there(const struct mapping *piece)
{
    (void)piece;
    return 0;
}

static long discard(uintptr_t start, uintptr_t end, long (*how)(const struct mapping *))
{
    long result = each_image_piece(start, end, how);

    if (result == -EBADF)
        return discard_blindly(start, end);
    return result == -ENXIO ? 0 : result;
}

/* The kernel's answer first: it knows locked memory, holes and bad arguments. */
static long advise_dontneed(uintptr_t start, size_t length, int advice)
{
    long answer = SYS(SYS_madvise, start, length, advice), result;

    if (answer != 0 && answer != -ENOMEM)
        return answer;
    /* mapping afresh would lose the lock that DONTNEED_LOCKED keeps */
    result = discard(start, start + guard_round_up(length),
                     advice == ADVICE_DONTNEED_LOCKED ? zero_by_writing : discard_piece);
    return result < 0 ? result : answer;
}

/* MADV_FREE is refused on files and must not bring old bytes back: freed at once instead. */
static long advise_free(uintptr_t start, size_t length)
{
    long result = each_image_piece(start, start + guard_round_up(length), discard_piece);

    if (result == -EBADF)
        return 0; /* the bytes may stay: MADV_FREE promises no more */
    return result == 0 || result == -ENXIO ? SYS(SYS_madvise, start, length, MADV_FREE) : result;
}

/* A guard discards what it covers, and its removal must show zeroes, not the file. */
static long advise_guard(uintptr_t start, size_t length)
{
    long result = SYS(SYS_madvise, start, 0, ADVICE_GUARD_INSTALL); /* length 0: is it known at all? */

    if (result == 0)
        result = discard(start, start + guard_round_up(length), discard_piece);
    return result < 0 ? result : SYS(SYS_madvise, start, length, ADVICE_GUARD_INSTALL);
}

static long advise_wipeonfork(uintptr_t start, size_t length)
{
    long result = each_image_piece(start, start + guard_round_up(length), keep_piece);

    if (result < 0 && result != -ENXIO && result != -EBADF)
        return result;
    return SYS(SYS_madvise, start, length, MADV_WIPEONFORK);
}

/* Anonymous memory has no file to punch a hole in: EINVAL, where a file mapping says EACCES. */
static long advise_remove(uintptr_t start, size_t length)
{
    if (each_image_piece(start, start + guard_round_up(length), is_there) == 0)
        return -EINVAL;
    return SYS(SYS_madvise, start, length, MADV_REMOVE);
}

/* Other advice means the same on an image: DONTFORK, MERGEABLE (only private copies are merged),
 * DONTDUMP, HUGEPAGE, COLD, PAGEOUT, POPULATE, and what is not known here. */
long guard_madvise(uintptr_t start, size_t length, int advice)
{
    if (start & (guard_page_size - 1) || !length || start + guard_round_up(length) < start)
        return SYS(SYS_madvise, start, length, advice);
    switch (advice) {
    case MADV_DONTNEED:
    case ADVICE_DONTNEED_LOCKED:
        return advise_dontneed(start, length, advice);
    case MADV_FREE:
        return advise_free(start, length);
    case MADV_REMOVE:
        return advise_remove(start, length);
    case MADV_WIPEONFORK:
        return advise_wipeonfork(start, length);
    case ADVICE_GUARD_INSTALL:
        return advise_guard(start, length);
    default:
        return SYS(SYS_madvise, start, length, advice);
    }
}

/* Only on the caller itself does the kernel allow advice that destroys (6.13, mm/madvise.c:
 * process_madvise_remote_valid), so after its success the addresses are ours. */
long guard_process_madvise(int pidfd, const void *vector, size_t count, int advice, unsigned int flags)
{
    const struct iovec *range = vector;
    long advised = SYS(SYS_process_madvise, pidfd, vector, count, advice, flags), left = advised, result = 0;

    if (advice != MADV_DONTNEED && advice != ADVICE_DONTNEED_LOCKED && advice != ADVICE_GUARD_INSTALL)
        return advised;
    for (size_t i = 0; i < count && left > 0 && result == 0; i++) {
        uintptr_t start = (uintptr_t)range[i].iov_base;
        if (extents_hit(start, start + range[i].iov_len))
            result = guard_madvise(start, range[i].iov_len, advice);
        left -= (long)range[i].iov_len;
    }
    return result < 0 ? result : advised;
}
