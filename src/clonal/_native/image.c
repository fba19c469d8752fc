#define _GNU_SOURCE
#include "image.h"
#include "sys.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/stat.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u
#endif
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#define NODE_WORDS 16

/* Offset in the file = address, so that neighbours merge into one VMA and huge pages are aligned. */
#define FILE_BYTES (1ull << 48)

/* The largest hole that is mapped to join two mappings. */
#define HOLE_BYTES (1ull << 20)

/* Most bytes held twice at a time. */
#define CHUNK_BYTES (16ull << 20)

static bool failed(struct image *image, const char *call, long result)
{
    if (result >= 0)
        return false;
    if (!image->error) { /* the first one tells */
        image->error = result;
        image->error_call = call;
    }
    return true;
}

void open_image(struct image *image)
{
    long fd = SYS(SYS_memfd_create, IMAGE_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd == -EINVAL) /* before 6.3 */
        fd = SYS(SYS_memfd_create, IMAGE_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    image->memfd = (int)fd;
    if (failed(image, "memfd_create", fd))
        return;
    if (failed(image, "ftruncate", SYS(SYS_ftruncate, fd, FILE_BYTES))) {
        SYS(SYS_close, fd);
        image->memfd = -1;
    }
}

/* Writes [start, end) to the same offset of the file. */
static bool write_out(struct image *image, uint64_t start, uint64_t end)
{
    while (start < end) {
        long done = SYS(SYS_pwrite64, image->memfd, start, end - start, start);
        if (done == 0)
            done = -EIO;
        if (failed(image, "pwrite", done))
            return false;
        start += done;
    }
    return true;
}

static void copy_bytes(uint64_t to, uint64_t from, uint64_t bytes)
{
#if defined(__x86_64__)
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
#else
    uint64_t *target = (uint64_t *)to;
    const uint64_t *source = (const uint64_t *)from;
    for (uint64_t i = 0; i < bytes / 8; i++)
        target[i] = source[i];
#endif
}

typedef bool copy_run(struct image *, uint64_t start, uint64_t end, uint64_t base);

/* Calls `copy` for each run of pages in [start, end) that has content. */
static bool each_run(struct image *image, const struct vma *vma, uint64_t start, uint64_t end, copy_run *copy)
{
    struct plan *plan = image->plan;
    uint64_t base = start;
    while (start < end) {
        long count = (end - start) / plan->page;
        if (count > WINDOW_PAGES)
            count = WINDOW_PAGES;
        classify_pages(plan, vma, start, count);
        if (failed(image, "pread of pagemap", plan->error))
            return false;
        for (long i = 0; i < count;) {
            long from = i;
            while (i < count && plan->classes[i] != PAGE_ABSENT)
                i++;
            if (i > from && !copy(image, start + from * plan->page, start + i * plan->page, base))
                return false;
            i += i == from;
        }
        start += count * plan->page;
    }
    return true;
}

static bool copy_by_write(struct image *image, uint64_t start, uint64_t end, uint64_t base)
{
    (void)base;
    return write_out(image, start, end);
}

static bool copy_by_staging(struct image *image, uint64_t start, uint64_t end, uint64_t base)
{
    copy_bytes(image->staging + (start - base), start, end - start);
    return true;
}

/* Makes huge pages in the file first, by touching one page of each and collapsing, then copies. The other
 * order takes seven times as long. */
static bool fill_huge(struct image *image, const struct vma *vma, uint64_t start, uint64_t end)
{
    struct plan *plan = image->plan;
    uint64_t length = end - start;
    long mapped = SYS(SYS_mmap, image->staging, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                      image->memfd, start);
    if (failed(image, "mmap of the staging area", mapped))
        return false;
    for (uint64_t at = image->staging; at < image->staging + length; at += plan->block) {
        *(volatile char *)at = 0;
        if (SYS(SYS_madvise, at, plan->block, MADV_COLLAPSE) == 0)
            image->huge_bytes += plan->block;
        else
            image->collapse_failed += plan->block;
    }
    bool ok = each_run(image, vma, start, end, copy_by_staging);
    long reserved = SYS(SYS_mmap, image->staging, length, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    return !failed(image, "munmap of the staging area", reserved) && ok;
}

static const char lost_message[] = "clonal: memory could not be mapped back after a failed mmap; aborting\n";

/* mmap over [start, end) failed; the kernel may have unmapped it first. Maps the image, or else anonymous
 * memory with the same content, or ends the process. */
static bool map_back(struct image *image, uint64_t start, uint64_t end, int prot, int flags)
{
    struct plan *plan = image->plan;
    uint64_t length = end - start;
    unsigned char *residency = plan->classes; /* one byte a page, at most WINDOW_PAGES */
    bool there = true;
    for (uint64_t at = start; at < end; at += WINDOW_PAGES * plan->page) {
        uint64_t part = end - at < WINDOW_PAGES * plan->page ? end - at : WINDOW_PAGES * plan->page;
        there &= SYS(SYS_mincore, at, part, residency) != -ENOMEM;
    }
    if (there)
        return false; /* nothing was unmapped: the old pages are still in place */
    if (SYS(SYS_mmap, start, length, prot, flags, image->memfd, start) >= 0)
        return true;
    long anonymous = SYS(SYS_mmap, start, length, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    for (uint64_t at = start; anonymous >= 0 && at < end;) {
        long got = SYS(SYS_pread64, image->memfd, at, end - at, at);
        if (got <= 0)
            anonymous = -EIO;
        else
            at += got;
    }
    if (anonymous >= 0 && (prot & PROT_WRITE || SYS(SYS_mprotect, start, length, prot) == 0))
        return false;
    SYS(SYS_write, 2, lost_message, sizeof lost_message - 1);
    SYS(SYS_exit_group, 134);
    __builtin_unreachable();
}

/* The memory policy of the VMA at `address` (its own or the task's). False if it is the default. */
static bool get_policy(uint64_t address, int *mode, unsigned long *nodes)
{
    long result = SYS(SYS_get_mempolicy, mode, nodes, NODE_WORDS * 64, address, MPOL_F_ADDR);
    return result == 0 && *mode != MPOL_DEFAULT;
}

/* Applies again what the old mapping had asked of the kernel. The image is good without, but it is told. */
static void carry_over(struct image *image, const struct vma *vma, uint64_t start, uint64_t length)
{
    const struct {
        bool wanted;
        int advice;
    } advices[] = {{vma->dont_dump, MADV_DONTDUMP},
                   {vma->no_huge, MADV_NOHUGEPAGE},
                   {vma->mergeable, MADV_MERGEABLE},
                   {vma->random, MADV_RANDOM}};
    for (unsigned i = 0; i < sizeof advices / sizeof advices[0]; i++)
        if (advices[i].wanted)
            failed(image, "madvise as before", SYS(SYS_madvise, start, length, advices[i].advice));
    if (vma->pkey)
        failed(image, "pkey_mprotect", SYS(SYS_pkey_mprotect, start, length, vma->prot, vma->pkey));
}

static bool switch_over(struct image *image, const struct vma *vma, uint64_t start, uint64_t end)
{
    int flags = MAP_PRIVATE | MAP_FIXED | (image->reserve ? 0 : MAP_NORESERVE);
    unsigned long nodes[NODE_WORDS];
    int mode = MPOL_DEFAULT;
    bool policy = image->numa && get_policy(start, &mode, nodes);
    long mapped = SYS(SYS_mmap, start, end - start, vma->prot, flags, image->memfd, start);
    if (mapped < 0) {
        bool back = map_back(image, start, end, vma->prot, flags);
        failed(image, "mmap of the image", mapped);
        if (!back)
            return false;
    }
    carry_over(image, vma, start, end - start);
    if (policy)
        failed(image, "mbind", SYS(SYS_mbind, start, end - start, mode, nodes, NODE_WORDS * 64, 0));
    image->bytes += end - start;
    return mapped >= 0;
}

static bool switch_piece(struct image *image, const struct piece *piece)
{
    const struct vma *vma = &image->plan->vmas[piece->vma];
    for (uint64_t start = piece->start; start < piece->end;) {
        uint64_t end = (start + CHUNK_BYTES) / image->plan->block * image->plan->block;
        if (end > piece->end)
            end = piece->end;
        bool filled =
            piece->huge ? fill_huge(image, vma, start, end) : each_run(image, vma, start, end, copy_by_write);
        if (!filled || !switch_over(image, vma, start, end))
            return false;
        if (end - start > image->peak)
            image->peak = end - start;
        start = end;
    }
    return true;
}

static bool alike(const struct vma *a, const struct vma *b)
{
    bool advised = a->dont_dump || a->no_huge || a->mergeable || a->random || b->dont_dump || b->no_huge ||
                   b->mergeable || b->random || a->pkey || b->pkey;
    return !advised && a->prot == (PROT_READ | PROT_WRITE) && b->prot == a->prot;
}

/* Every VMA costs every fork half a microsecond. A heap that has grown and shrunk has small holes between
 * mappings that are alike: mapped to the image, where nothing is either, they make one VMA of two. */
static void bridge_holes(struct image *image)
{
    struct plan *plan = image->plan;
    int flags = MAP_PRIVATE | MAP_FIXED_NOREPLACE | (image->reserve ? 0 : MAP_NORESERVE);
    for (long i = 0; i + 1 < plan->piece_count; i++) {
        struct piece *piece = &plan->pieces[i], *next = piece + 1;
        const struct vma *vma = &plan->vmas[piece->vma], *after = &plan->vmas[next->vma];
        uint64_t hole = next->start - piece->end;
        bool bare = piece->end == vma->end && next->start == after->start && piece->end != image->heap_end;
        if (hole == 0 || hole > HOLE_BYTES || !bare || !alike(vma, after))
            continue;
        long mapped = SYS(SYS_mmap, piece->end, hole, vma->prot, flags, image->memfd, piece->end);
        if (mapped != -EEXIST &&
            !failed(image, "mmap of a hole", mapped)) /* the staging area may lie in it */
            piece->end = next->start;
    }
}

/* Puts a VMA boundary into each malloc chunk: mremap refuses to grow a range of two VMAs, so realloc copies
 * instead of growing the file. Two neighbours' boundaries serve three chunks: the pages between every other
 * pair of middles get the flag of MADV_RANDOM, which shared memory ignores. */
static void fence_chunks(struct image *image)
{
    struct plan *plan = image->plan;
    long piece = 0;
    for (long i = 0; i < plan->chunk_count; i += 2) {
        uint64_t bounds[2] = {0, UINT64_MAX};
        for (long j = 0; j < 2 && i + j < plan->chunk_count; j++) {
            struct chunk chunk = plan->chunks[i + j];
            uint64_t middle = (chunk.start + chunk.size / 2) / plan->block * plan->block;
            if (middle <= chunk.start)
                middle += plan->block;
            if (middle >= chunk.start + chunk.size)
                middle = chunk.start + chunk.size / plan->page / 2 * plan->page;
            bounds[j] = middle;
        }
        if (bounds[1] == UINT64_MAX) /* the last of an odd number: to its own end */
            bounds[1] = plan->chunks[i].start + plan->chunks[i].size;
        for (; piece < plan->piece_count && plan->pieces[piece].end <= bounds[0]; piece++)
            ;
        for (long k = piece; k < plan->piece_count && plan->pieces[k].start < bounds[1]; k++) {
            const struct piece *p = &plan->pieces[k];
            uint64_t start = p->start > bounds[0] ? p->start : bounds[0];
            uint64_t end = p->end < bounds[1] ? p->end : bounds[1];
            failed(image, "madvise inside malloc chunks (realloc may grow the image)",
                   SYS(SYS_madvise, start, end - start, MADV_RANDOM));
        }
    }
}

/* Entries of clean runs that share a VMA with dirty pages would be copied at every fork. */
static void drop_entries(const struct plan *plan)
{
    for (long i = 0; i < plan->drop_count; i++)
        SYS(SYS_madvise, plan->drops[i].start, plan->drops[i].end - plan->drops[i].start, MADV_DONTNEED);
}

static void seal(struct image *image)
{
    struct stat stat;
    if (!failed(image, "fstat", SYS(SYS_fstat, image->memfd, &stat))) {
        image->inode = stat.st_ino;
        image->file_bytes = (uint64_t)stat.st_blocks * 512;
    }
    int seals = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL;
    failed(image, "fcntl(F_ADD_SEALS)", SYS(SYS_fcntl, image->memfd, F_ADD_SEALS, seals));
    SYS(SYS_close, image->memfd);
    image->memfd = -1;
}

void switch_pieces(struct image *image)
{
    struct plan *plan = image->plan;
    bool ok = true;
    for (long i = 0; i < plan->piece_count && ok; i++)
        ok = switch_piece(image, &plan->pieces[i]);
    if (ok)
        bridge_holes(image);
    if (ok && image->guard_chunks)
        fence_chunks(image);
    if (ok)
        drop_entries(plan);
    seal(image);
}
