/* Forks after the pages were looked at: a process that forks often is not looked at again after each. All
 * that it has is shared once more then, so each page has the generation (of forks) since which it is this
 * process's alone: a write in a later one copies it.
 *
 * Pages that were not there when the others were looked at are kept 2 MiB by 2 MiB. The handler notes each
 * first touch, and reads the page map of a block at the first fault in it of each generation, for what no
 * fault told of: what the kernel wrote first, huge pages, what mremap brought here. Of the very page that has
 * just been written the map no longer tells whether it was there: it is taken to be as the page behind it.
 * What is unmapped and mapped anew between two forks, after its block was read, is taken for what was there
 * before.
 */
#define _GNU_SOURCE
#include "pagemap.h"
#include "trap_state.h"

#include <unistd.h>

/* The outcome of a fault in a page of a run, which is this process's own from now on. */
static int run_outcome(const struct inherited *all, const struct run *run, uint64_t page)
{
    uint64_t index = run->at + page - run->first, entry = 0;
    if (all->own_since[index] == all->generation ||
        pread(clonal_trap.pagemap, &entry, 8, (off_t)page * 8) != 8)
        return -1;
    int outcome = trap_outcome(all, run, page, entry);
    if (outcome < 0 || (all->seen[index] & PAGE_WATCHED && trap_remapped(page)))
        return -1;
    all->seen[index] |= PAGE_SEEN | PAGE_OWN;
    all->own_since[index] = all->generation;
    all->frame_number[index] = entry & PM_FRAME;
    return outcome;
}

static struct block *block_of(struct later *later, uint64_t number)
{
    uint32_t slot = (uint32_t)(number * 0x9E3779B97F4A7C15ULL >> 40);
    for (uint32_t i = 0; i < 2 * BLOCKS; i++, slot++) {
        uint32_t *at = &later->index[slot % (2 * BLOCKS)];
        if (*at && later->block[*at - 1].number == number)
            return &later->block[*at - 1];
        if (*at)
            continue;
        if (later->count == BLOCKS)
            return NULL;
        *at = ++later->count;
        later->block[*at - 1].number = number;
        return &later->block[*at - 1];
    }
    return NULL;
}

/* What is shared in the block, runs apart, is so since before this generation. */
static void look_at_block(const struct inherited *all, struct block *block)
{
    uint64_t first = block->number * BLOCK_PAGES, entries[BLOCK_PAGES];
    block->looked = all->generation;
    if (pread(clonal_trap.pagemap, entries, sizeof entries, (off_t)first * 8) != sizeof entries)
        return;
    trap_without_zeroes(first, BLOCK_PAGES, entries);
    for (uint64_t i = 0; i < BLOCK_PAGES; i++) {
        if (!(entries[i] & (PM_PRESENT | PM_SWAPPED)))
            block->own_since[i] = 0; /* unmapped since */
        if (!trap_is_shared(entries[i]))
            continue;
        const struct run *run = trap_run_of(all, first + i);
        if (run) {
            i = run->last - first - 1;
            continue;
        }
        if (!block->own_since[i])
            block->own_since[i] = BEFORE;
        block->frame_number[i] = entries[i] & PM_FRAME;
    }
}

/* The generation since which the page was this process's alone, before the fault; 0 if it was not there. */
static unsigned owned_since(const struct inherited *all, struct block *block, unsigned at)
{
    unsigned beside = at + 1 < BLOCK_PAGES ? at + 1 : at - 1, known_beside = block->own_since[beside];
    if (block->looked == all->generation)
        return block->own_since[at];
    look_at_block(all, block);
    if (block->own_since[at])
        return known_beside && !block->own_since[beside] ? 0 : block->own_since[at];
    return block->own_since[beside] == BEFORE ? BEFORE : 0;
}

/* The same of a page of no run. */
static int later_outcome(const struct inherited *all, uint64_t page)
{
    struct block *block = block_of(all->later, page / BLOCK_PAGES);
    unsigned at = page % BLOCK_PAGES;
    uint64_t entry = 0;
    if (!block)
        return -1;
    unsigned since = owned_since(all, block, at);
    block->own_since[at] = all->generation;
    if (!since || since == all->generation || pread(clonal_trap.pagemap, &entry, 8, (off_t)page * 8) != 8 ||
        (entry & (PM_PRESENT | PM_FILE)) != PM_PRESENT)
        return -1;
    uint64_t before = block->frame_number[at], now = entry & PM_FRAME;
    block->frame_number[at] = now;
    return !before || !now ? COPIED_OR_REUSED : before == now ? REUSED : COPIED;
}

int trap_outcome_of_fault(const struct inherited *all, uint64_t page)
{
    const struct run *run = trap_run_of(all, page);
    return run ? run_outcome(all, run, page) : later_outcome(all, page);
}
