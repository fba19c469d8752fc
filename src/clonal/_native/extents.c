/* Where the image is: a sorted table in a mapping of its own.
 *
 * The table is MAP_SHARED, never written once built, and replaced as a whole: so a fork copies
 * nothing of it, a clone inherits it, and a clone that freezes again changes only its own. It only
 * ever names too much, since image memory moves nowhere (guard_mremap copies instead). */
#define _GNU_SOURCE
#include "interpose.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "sys.h"
#include "mapping.h"

#define TABLE_BYTES (1ul << 20)

struct table {
    uint64_t generation; /* differs between successive tables: a reader that saw two looks closer */
    size_t count;
    struct extent extents[]; /* sorted, disjoint, not adjacent */
};

#define TABLE_CAPACITY ((TABLE_BYTES - sizeof(struct table)) / sizeof(struct extent))

static struct table *table;

/* Ids of the process in which a freeze is under way (from install to refresh), and in which a thread is
 * rebuilding the table otherwise; 0 if none. An id of another process was inherited by fork: it means
 * nothing. No lock is waited for but by a freeze, which must not be overtaken by an older table. */
static _Atomic int freezing, rebuilding;
static _Atomic unsigned stale_hits;

#define STALE_HITS_MAX 32u /* about as many looks at a few mappings cost as much as one at all */
#define PATIENCE 100000

static int process_id(void)
{
    return (int)SYS(SYS_getpid, 0);
}

/* Makes an empty table elsewhere. Returns its address or a negative errno. */
static long draft_table(void)
{
    return SYS(SYS_mmap, 0, TABLE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE,
               -1, 0);
}

/* Puts a finished draft in the place of the table at once. Returns 0 or a negative errno; the draft
 * is gone in either case. */
static long publish(struct table *draft)
{
    long result;

    draft->generation = table->generation + 1;
    result = SYS(SYS_mprotect, draft, TABLE_BYTES, PROT_READ);
    if (result == 0)
        result = SYS(SYS_mremap, draft, TABLE_BYTES, TABLE_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, table);
    if (result < 0)
        SYS(SYS_munmap, draft, TABLE_BYTES);
    return result < 0 ? result : 0;
}

static void add_extent(struct table *draft, uintptr_t start, uintptr_t end)
{
    struct extent *last = draft->count ? &draft->extents[draft->count - 1] : NULL;

    if (last && (last->end == start || draft->count == TABLE_CAPACITY))
        last->end = end; /* a full table names too much rather than too little */
    else
        draft->extents[draft->count++] = (struct extent){start, end};
}

/* Announces a freeze and waits for a thread that is just rebuilding. */
static void begin_freeze(void)
{
    int pid = process_id();

    freezing = pid;
    for (int tries = 0; tries < PATIENCE && rebuilding == pid; tries++)
        SYS(SYS_sched_yield, 0);
}

long extents_install(void)
{
    long draft;

    begin_freeze();
    if (!table) {
        long place = draft_table();
        if (place < 0)
            return place;
        table = (struct table *)place;
    }
    draft = draft_table();
    if (draft < 0)
        return draft;
    add_extent((struct table *)draft, 0, UINTPTR_MAX);
    return publish((struct table *)draft);
}

/* Replaces the table by one of the mappings as they are. Returns the number of extents or a negative errno.
 */
static long rebuild(void)
{
    struct mapping_walk walk;
    struct mapping mapping;
    struct table *draft;
    long result, count;

    if (!table)
        return -EINVAL;
    result = mapping_walk_open(&walk, 0);
    if (result < 0)
        return result;
    result = draft_table();
    if (result < 0)
        goto out;
    draft = (struct table *)result;
    while (mapping_walk_next(&walk, &mapping))
        if (mapping.image)
            add_extent(draft, mapping.start, mapping.end);
    count = (long)draft->count;
    result = publish(draft);
    if (result == 0)
        result = count;
out:
    mapping_walk_close(&walk);
    return result;
}

long extents_refresh(void)
{
    long result;

    begin_freeze();
    result = rebuild();
    stale_hits = 0;
    freezing = 0;
    return result;
}

void extents_stale(void)
{
    int pid = process_id(), holder = rebuilding;

    if (++stale_hits < STALE_HITS_MAX || holder == pid)
        return;
    if (!atomic_compare_exchange_strong(&rebuilding, &holder, pid))
        return;
    if (freezing != pid) {
        stale_hits = 0;
        rebuild();
    }
    rebuilding = 0;
}

/* Index of the first extent that ends above `from`; count if there is none. */
static size_t first_above(const struct table *t, size_t count, uintptr_t from)
{
    size_t low = 0, high = count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (t->extents[middle].end > from)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

bool extents_hit(uintptr_t start, uintptr_t end)
{
    const struct table *t = table;
    uint64_t generation;
    size_t count, index;
    bool hit;

    if (!t)
        return false;
    generation = __atomic_load_n(&t->generation, __ATOMIC_ACQUIRE);
    count = __atomic_load_n(&t->count, __ATOMIC_ACQUIRE);
    index = first_above(t, count, start);
    hit = index < count && t->extents[index].start < end;
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return hit || generation != __atomic_load_n(&t->generation, __ATOMIC_ACQUIRE);
}

struct extent extents_after(uintptr_t from)
{
    size_t index;

    if (!table)
        return (struct extent){0, 0};
    index = first_above(table, table->count, from);
    return index < table->count ? table->extents[index] : (struct extent){0, 0};
}

struct extent extents_mapping(void)
{
    return (struct extent){(uintptr_t)table, table ? (uintptr_t)table + TABLE_BYTES : 0};
}
