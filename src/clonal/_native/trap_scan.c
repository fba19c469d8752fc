/* What the page map does not tell, but PAGEMAP_SCAN does (Linux 6.7;
 * Documentation/admin-guide/mm/pagemap.rst): the page of zeroes, and whether a page still lies in a mapping
 * that is watched. */
#define _GNU_SOURCE
#include "pagemap.h"
#include "sys.h"
#include "trap_state.h"

/* include/uapi/linux/fs.h */
#define PAGEMAP_SCAN 0xC0606610UL /* _IOWR('f', 16, struct pm_scan_arg) */
enum { PAGE_IS_WPALLOWED = 1 << 0, PAGE_IS_PFNZERO = 1 << 5, REGIONS = 64 };

struct region {
    uint64_t start, end, categories;
};

struct scan { /* struct pm_scan_arg */
    uint64_t size, flags, start, end, walk_end, found, room, most;
    uint64_t inverted, all_of, any_of, shown;
};

/* Of the pages [first, last) those with this category, from scan->start on: how many regions, 0 at the end.
 */
static long scan_on(struct scan *scan, uint64_t category, struct region *found)
{
    if (scan->start >= scan->end)
        return 0;
    scan->size = sizeof *scan, scan->found = (uint64_t)found, scan->room = REGIONS;
    scan->all_of = scan->shown = category;
    long regions = SYS(SYS_ioctl, clonal_trap.pagemap, PAGEMAP_SCAN, scan);
    scan->start = scan->walk_end > scan->start ? scan->walk_end : scan->end;
    return regions;
}

bool trap_is_shared(uint64_t entry)
{
    return (entry & (PM_PRESENT | PM_FILE | PM_EXCLUSIVE)) == PM_PRESENT;
}

void trap_without_zeroes(uint64_t first, uint64_t count, uint64_t *entries)
{
    struct region found[REGIONS];
    struct scan scan = {.start = first * 4096, .end = (first + count) * 4096};
    uint64_t shared = 0;
    long regions;
    while (shared < count && !trap_is_shared(entries[shared]))
        shared++;
    while (shared < count && (regions = scan_on(&scan, PAGE_IS_PFNZERO, found)) > 0)
        for (long i = 0; i < regions; i++)
            for (uint64_t page = found[i].start / 4096; page < found[i].end / 4096; page++)
                entries[page - first] = 0;
}

bool trap_remapped(uint64_t page)
{
    struct region found[REGIONS];
    struct scan scan = {.start = page * 4096, .end = (page + 1) * 4096};
    return scan_on(&scan, PAGE_IS_WPALLOWED, found) == 0 && trap_watched();
}
