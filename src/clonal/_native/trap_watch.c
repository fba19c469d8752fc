/* Lets the kernel tell which of the shared pages were written, also by itself in system calls: userfaultfd
 * with asynchronous write protection (UFFD_FEATURE_WP_ASYNC, Linux 6.7). A page that is watched carries a bit
 * that pagemap shows (57), and that a write takes away, whoever writes (mm/memory.c do_wp_page); nobody waits
 * and no event is sent (userfaultfd_wp_async), so the unprivileged kind of descriptor (UFFD_USER_MODE_ONLY)
 * will do. Only pages that are read-only anyway, being shared, are watched: no fault is added.
 */
#define _GNU_SOURCE
#include "pagemap.h"
#include "sys.h"
#include "trap_state.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#define WP_ASYNC (1 << 15) /* UFFD_FEATURE_WP_ASYNC */

/* A descriptor that watches this process, or a negative errno. */
static long opened(void)
{
    struct uffdio_api api = {.api = UFFD_API, .features = WP_ASYNC};
    long fd = SYS(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    if (fd < 0)
        return fd;
    long error = SYS(SYS_ioctl, fd, UFFDIO_API, &api);
    if (error < 0)
        close((int)fd);
    return error < 0 ? error : fd;
}

static bool enlist(uint64_t start, uint64_t end)
{
    struct uffdio_register mapping = {.range = {start, end - start}, .mode = UFFDIO_REGISTER_MODE_WP};
    return clonal_trap.watch >= 0 && SYS(SYS_ioctl, clonal_trap.watch, UFFDIO_REGISTER, &mapping) >= 0;
}

static bool protect(uint64_t first, uint64_t last)
{
    struct uffdio_writeprotect range = {.range = {first * 4096, (last - first) * 4096},
                                        .mode = UFFDIO_WRITEPROTECT_MODE_WP};
    return SYS(SYS_ioctl, clonal_trap.watch, UFFDIO_WRITEPROTECT, &range) >= 0;
}

/* A page that nobody writes again: while it is watched, all are. */
static bool post_sentinel(void)
{
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return false;
    madvise(page, 4096, MADV_DONTFORK);
    *(volatile char *)page = 1;
    clonal_trap.sentinel = (uint64_t)page / 4096;
    return enlist((uint64_t)page, (uint64_t)page + 4096) &&
           protect((uint64_t)page / 4096, (uint64_t)page / 4096 + 1);
}

bool trap_watched(void)
{
    uint64_t entry = 0;
    return clonal_trap.watch >= 0 &&
           pread(clonal_trap.pagemap, &entry, 8, (off_t)clonal_trap.sentinel * 8) == 8 && entry & PM_WATCHED;
}

void trap_watch_open(void)
{
    if (clonal_trap.watch >= 0)
        return;
    long fd = opened();
    clonal_trap.watch = fd < 0 ? -1 : (int)fd;
    clonal_trap.watch_refused = fd < 0 ? (int)-fd : 0;
    if (fd >= 0 && !(post_sentinel() && trap_watched())) {
        trap_watch_close();
        clonal_trap.watch_refused = ENOTSUP;
    }
}

/* In a child the sentinel is not mapped. */
void trap_watch_close(void)
{
    if (clonal_trap.watch < 0)
        return;
    if (clonal_trap.owner == getpid())
        munmap((void *)(clonal_trap.sentinel * 4096), 4096);
    trap_let_go(clonal_trap.watch, "[userfaultfd]");
    clonal_trap.watch = -1;
}

static uint64_t later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

void trap_watch_mapping(struct inherited *all, uint32_t run, uint64_t start, uint64_t end)
{
    bool good = false;
    for (; run < all->count; run++) {
        const struct run *each = &all->runs[run];
        uint64_t first = later(each->first, start / 4096); /* it may begin in the mapping before */
        if (first >= each->last)
            continue;
        good = good || enlist(start, end);
        if (!good || !protect(first, each->last)) {
            all->unwatched += each->last - first; /* the program watches it itself: EBUSY */
            continue;
        }
        for (uint64_t page = first; page < each->last; page++)
            all->seen[each->at + page - each->first] |= PAGE_WATCHED;
    }
}
