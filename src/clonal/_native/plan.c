#include "pagemap.h"
#include "plan.h"
#include "sys.h"

#include <errno.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

/* Older images are imaged again as whole VMAs up to this size, or if a quarter of their blocks is dirty. */
#define WHOLE_BYTES (16ull << 20)

static bool is_zero(const uint64_t *words, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes / 8; i += 4)
        if (words[i] | words[i + 1] | words[i + 2] | words[i + 3])
            return false;
    return true;
}

static bool kept(const struct plan *plan, uint64_t address)
{
    long low = 0, high = plan->keep_count;
    while (low < high) {
        long middle = (low + high) / 2;
        if (plan->keep[middle].end <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low < plan->keep_count && plan->keep[low].start <= address;
}

static enum page_class classify(struct plan *plan, const struct vma *vma, uint64_t address, uint64_t entry)
{
    if (kept(plan, address))
        return PAGE_KEEP;
    if (entry & PM_SWAPPED) {
        if (entry & PM_GUARD || SYS(SYS_madvise, address, plan->page, MADV_POPULATE_READ) < 0)
            return PAGE_KEEP;
        return PAGE_OWN;
    }
    bool own = (entry & PM_PRESENT) && !(entry & PM_FILE);
    if (!own)
        return vma->kind == VMA_ANON ? PAGE_ABSENT : PAGE_CLEAN;
    if (vma->kind == VMA_ANON && is_zero((const uint64_t *)address, plan->page))
        return PAGE_ABSENT;
    return PAGE_OWN;
}

void classify_pages(struct plan *plan, const struct vma *vma, uint64_t start, long count)
{
    long got = SYS(SYS_pread64, plan->pagemap, plan->entries, count * 8, start / plan->page * 8);
    if (got != count * 8) {
        plan->error = got < 0 ? got : -EIO;
        count = 0;
    }
    for (long i = 0; i < count; i++)
        plan->classes[i] = classify(plan, vma, start + i * plan->page, plan->entries[i]);
}

/* glibc's header of a chunk that has a mapping of its own: previous size 0 (alignment otherwise), size a
 * multiple of pages, IS_MMAPPED set and neither PREV_INUSE nor NON_MAIN_ARENA. */
static void note_chunk(struct plan *plan, const struct vma *vma, uint64_t address)
{
    const uint64_t *header = (const uint64_t *)address;
    uint64_t size = header[1] & ~7ull;
    if ((header[1] & 7) != 2 || header[0] != 0 || size % plan->page || size < 2 * plan->page)
        return;
    if (size > vma->end - address || plan->chunk_count == plan->chunk_capacity)
        return;
    plan->chunks[plan->chunk_count++] = (struct chunk){address, size};
}

static void add_piece(struct plan *plan, int vma, uint64_t start, uint64_t end, bool huge)
{
    struct piece *last = plan->piece_count ? &plan->pieces[plan->piece_count - 1] : NULL;
    if (last && last->vma == vma && last->end == start && last->huge == huge) {
        last->end = end;
        return;
    }
    if (plan->piece_count == plan->piece_capacity) {
        plan->error = -ENOSPC;
        return;
    }
    plan->pieces[plan->piece_count++] = (struct piece){start, end, vma, huge};
}

/* A run of own pages of one VMA, growing. Behind a huge block an empty run is open. */
struct run {
    uint64_t start, end;
    bool open;
};

static void close_run(struct plan *plan, int vma, struct run *run)
{
    if (run->open && run->end > run->start)
        add_piece(plan, vma, run->start, run->end, false);
    *run = (struct run){0};
}

/* True if the absent or clean pages of [start, end) may go into the image too. */
static bool fillable(struct plan *plan, const struct vma *vma, uint64_t start, uint64_t end)
{
    if (start == end)
        return true;
    if (end - start > plan->gap * plan->page)
        return false;
    /* Pages behind the end of a file cannot be read. */
    return vma->kind != VMA_FILE || SYS(SYS_madvise, start, end - start, MADV_POPULATE_READ) == 0;
}

/* One own page: joins the run, or begins one, reaching back to the VMA's start if that is near. */
static void extend_run(struct plan *plan, int index, struct run *run, uint64_t address, uint64_t barrier)
{
    const struct vma *vma = &plan->vmas[index];
    if (run->open && fillable(plan, vma, run->end, address)) {
        run->end = address + plan->page;
        return;
    }
    close_run(plan, index, run);
    bool near = barrier < address && fillable(plan, vma, barrier, address);
    *run = (struct run){near ? barrier : address, address + plan->page, true};
}

static bool block_is_huge(const struct plan *plan, const unsigned char *classes, long count, bool image)
{
    if (!plan->huge || (uint64_t)count * plan->page != plan->block)
        return false;
    long own = 0;
    for (long i = 0; i < count; i++) {
        if (classes[i] == PAGE_KEEP)
            return false;
        own += classes[i] == PAGE_OWN || (image && classes[i] == PAGE_CLEAN);
    }
    return own * 2 >= count;
}

/* What a walk over one VMA carries from block to block. */
struct walk {
    int index;
    struct run run;
    uint64_t barrier; /* nothing before this may join the next run: VMA start, or end of a kept page */
    bool whole;       /* an older image: take clean pages too */
    bool dirty_only;  /* an older image: leave clean blocks */
};

static void plan_page(struct plan *plan, struct walk *walk, uint64_t address, enum page_class class)
{
    const struct vma *vma = &plan->vmas[walk->index];
    if (class == PAGE_KEEP) {
        close_run(plan, walk->index, &walk->run);
        walk->barrier = address + plan->page;
        plan->kept[KEEP_ASKED] += plan->page;
        return;
    }
    if (class == PAGE_OWN && vma->kind == VMA_ANON)
        note_chunk(plan, vma, address);
    if (class == PAGE_OWN || (walk->whole && class == PAGE_CLEAN))
        extend_run(plan, walk->index, &walk->run, address, walk->barrier);
}

/* A block of an older image with nothing written in it: fork need not copy its entries. */
static void drop_block(struct plan *plan, struct walk *walk, uint64_t start, uint64_t end)
{
    close_run(plan, walk->index, &walk->run);
    walk->barrier = end;
    struct range *last = plan->drop_count ? &plan->drops[plan->drop_count - 1] : NULL;
    if (last && last->end == start)
        last->end = end;
    else if (plan->drop_count < plan->drop_capacity)
        plan->drops[plan->drop_count++] = (struct range){start, end};
}

static void plan_block(struct plan *plan, struct walk *walk, uint64_t start, const unsigned char *classes,
                       long count)
{
    const struct vma *vma = &plan->vmas[walk->index];
    uint64_t end = start + count * plan->page;
    bool image = vma->kind == VMA_IMAGE, own = false;
    for (long i = 0; i < count; i++)
        own |= classes[i] != PAGE_CLEAN;
    if (walk->dirty_only && !own) {
        drop_block(plan, walk, start, end);
        return;
    }
    if (block_is_huge(plan, classes, count, image)) {
        uint64_t from = walk->run.open ? walk->run.end : walk->barrier;
        if (fillable(plan, vma, from, start)) {
            walk->run = (struct run){walk->run.open ? walk->run.start : from, start, true};
        }
        close_run(plan, walk->index, &walk->run);
        for (long i = 0; i < count && vma->kind == VMA_ANON; i++)
            if (classes[i] == PAGE_OWN)
                note_chunk(plan, vma, start + i * plan->page);
        add_piece(plan, walk->index, start, end, true);
        walk->run = (struct run){end, end, true};
        walk->barrier = end;
        return;
    }
    bool whole = walk->whole;
    walk->whole |= image; /* of a block that is imaged again, every page */
    for (long i = 0; i < count; i++)
        plan_page(plan, walk, start + i * plan->page, classes[i]);
    walk->whole = whole;
}

/* Calls plan_block for each huge-page-aligned block of the VMA, clipped to it. */
static void walk_blocks(struct plan *plan, struct walk *walk)
{
    const struct vma *vma = &plan->vmas[walk->index];
    for (uint64_t window = vma->start; window < vma->end && !plan->error;) {
        uint64_t window_end = (window + WINDOW_PAGES * plan->page) / plan->block * plan->block;
        if (window_end > vma->end)
            window_end = vma->end;
        classify_pages(plan, vma, window, (window_end - window) / plan->page);
        for (uint64_t start = window; start < window_end && !plan->error;) {
            uint64_t end = (start / plan->block + 1) * plan->block;
            if (end > window_end)
                end = window_end;
            plan_block(plan, walk, start, plan->classes + (start - window) / plan->page,
                       (end - start) / plan->page);
            start = end;
        }
        window = window_end;
    }
}

/* True if so much of an older image was written that it is imaged again as a whole. */
static bool take_whole(struct plan *plan, const struct vma *vma)
{
    if (plan->compact || !plan->huge || vma->end - vma->start <= WHOLE_BYTES)
        return true;
    uint64_t dirty = 0, previous = 0;
    for (uint64_t at = vma->start; at < vma->end && !plan->error;) {
        long count = (vma->end - at) / plan->page;
        if (count > WINDOW_PAGES)
            count = WINDOW_PAGES;
        classify_pages(plan, vma, at, count);
        for (long i = 0; i < count; i++) {
            uint64_t block = (at + i * plan->page) / plan->block + 1;
            if (plan->classes[i] == PAGE_OWN && block != previous) {
                dirty += plan->block;
                previous = block;
            }
        }
        at += count * plan->page;
    }
    return dirty * 4 >= vma->end - vma->start;
}

static void plan_vma(struct plan *plan, int index)
{
    struct vma *vma = &plan->vmas[index];
    bool image = vma->kind == VMA_IMAGE;
    if (vma->keep != KEEP_NONE) {
        plan->kept[vma->keep] += vma->anonymous;
        return;
    }
    if (vma->anonymous == 0 && !(image && plan->compact))
        return;
    struct walk walk = {.index = index, .barrier = vma->start};
    if (image) {
        walk.whole = take_whole(plan, vma);
        walk.dirty_only = !walk.whole;
    }
    walk_blocks(plan, &walk);
    /* Reach to the VMA's end if that is near, so that no small rest stays. */
    if (walk.run.open && fillable(plan, vma, walk.run.end, vma->end))
        walk.run.end = vma->end;
    close_run(plan, index, &walk.run);
}

void make_plan(struct plan *plan)
{
    plan->piece_count = plan->chunk_count = plan->drop_count = 0;
    for (int i = 0; i < KEEP_COUNT; i++)
        plan->kept[i] = 0;
    for (int i = 0; i < plan->vma_count && !plan->error; i++)
        plan_vma(plan, i);
}
