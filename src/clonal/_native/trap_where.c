/* Which pages does this process share with others? /proc/self/maps and /proc/self/pagemap say it without
 * privilege: present (bit 63), not of a file (bit 61). With CAP_SYS_ADMIN the frame number is there too. */
#define _GNU_SOURCE
#include "trap.h"

#include "pagemap.h"
#include "sys.h"
#include "text.h"
#include "trap_state.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { CHUNK = 4096, RUNS = 1 << 16 };

static void *shared(size_t bytes)
{
    void *found =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (found == MAP_FAILED)
        return NULL;
    madvise(found, bytes, MADV_DONTFORK);
    return found;
}

struct mapping {
    uint64_t start, end;
    bool private, file;
};

/* start-end perms offset dev inode path */
static bool parse(const char *line, struct mapping *found)
{
    found->start = parse_number(&line, 16), line++;
    found->end = parse_number(&line, 16), line++;
    found->private = line[3] == 'p';
    bool readable = line[0] == 'r';
    line += 5;
    parse_number(&line, 16), line++; /* offset */
    parse_number(&line, 16), line++; /* major */
    parse_number(&line, 16), line++; /* minor */
    found->file = parse_number(&line, 10) != 0;
    line++;
    while (*line == ' ')
        line++;
    bool kernels = line[0] == '[' && line[1] == 'v'; /* [vvar], [vdso] */
    return found->private && readable && !kernels && found->end < 1ULL << 47;
}

/* Room for the page's index: the end of the latest run, or of a new one. False where there is none. */
static bool add_page(struct inherited *all, uint64_t page, bool file)
{
    struct run *last = all->count ? &all->runs[all->count - 1] : NULL;
    if (!last || last->file != file || last->last != page) {
        if (all->count == RUNS)
            return false;
        last = &all->runs[all->count++];
        *last = (struct run){.first = page, .at = all->pages, .file = file};
    }
    if (all->pages == all->most)
        return false;
    last->last = page + 1;
    all->pages++;
    return true;
}

/* One page of a private mapping. Its own already: it has been copied, or made, before. */
static bool add_entry(struct inherited *all, uint64_t page, uint64_t entry, bool file)
{
    bool own = (entry & (PM_PRESENT | PM_FILE)) == PM_PRESENT, exclusive = own && entry & PM_EXCLUSIVE;
    all->already_own += exclusive;
    if (!file && (!own || exclusive))
        return true;
    if (!add_page(all, page, file))
        return false;
    if (own && !exclusive) {
        all->shared++;
        all->frames_shown += (entry & PM_FRAME) != 0;
        all->frame_number[all->pages - 1] = entry & PM_FRAME;
    }
    all->seen[all->pages - 1] = (exclusive ? PAGE_SEEN : 0) | (own ? PAGE_OWN : 0);
    all->own_since[all->pages - 1] = exclusive ? FIRST : BEFORE;
    return true;
}

static bool add_mapping(struct inherited *all, const struct mapping *vma, struct ring *ring, int pagemap)
{
    uint64_t *entries = ring->entries;
    uint32_t before = all->count ? all->count - 1 : 0;
    for (uint64_t page = vma->start / 4096; page < vma->end / 4096; page += CHUNK) {
        uint64_t count = vma->end / 4096 - page < CHUNK ? vma->end / 4096 - page : CHUNK;
        if (pread(pagemap, entries, count * 8, (off_t)page * 8) != (ssize_t)(count * 8))
            return false;
        if (!vma->file)
            trap_without_zeroes(page, count, entries);
        for (uint64_t i = 0; i < count; i++)
            if (!add_entry(all, page + i, entries[i], vma->file))
                return false;
    }
    if (!vma->file)
        trap_watch_mapping(all, before, vma->start, vma->end);
    return true;
}

typedef bool taker(struct inherited *, const struct mapping *, struct ring *, int pagemap);

/* Calls `take` for each private mapping that there is, until it says false. */
static bool each_mapping(taker *take, struct inherited *all, struct ring *ring, int pagemap)
{
    struct line_reader reader = {open("/proc/self/maps", O_RDONLY | O_CLOEXEC), ring->text, TEXT, 0, 0, 0};
    bool good = reader.fd >= 0;
    struct mapping vma;
    for (char *line; good && (line = read_line(&reader));)
        if (parse(line, &vma))
            good = take(all, &vma, ring, pagemap);
    if (reader.fd >= 0)
        close(reader.fd);
    return good;
}

static bool count_pages(struct inherited *all, const struct mapping *vma, struct ring *ring, int pagemap)
{
    (void)ring, (void)pagemap;
    all->most += (vma->end - vma->start) / 4096;
    return true;
}

/* What was written while the pages were looked at is the recording's own doing. */
static void see_early(struct inherited *all, struct ring *ring)
{
    for (uint32_t i = 0; i < ring->early_count; i++) {
        const struct run *run = trap_run_of(all, ring->early[i]);
        if (!run)
            continue;
        uint64_t index = run->at + ring->early[i] - run->first;
        all->seen[index] |= PAGE_SEEN;
        all->own_since[index] = FIRST;
    }
    ring->early_count = 0;
}

bool trap_look(struct inherited *found, struct ring *ring, int pagemap)
{
    *found = (struct inherited){.most = 1 << 12}; /* some more: what is mapped below is not counted yet */
    if (!each_mapping(count_pages, found, ring, pagemap))
        return false;
    found->runs = shared(RUNS * sizeof *found->runs);
    found->frame_number = shared(found->most * sizeof *found->frame_number);
    found->seen = shared(found->most * sizeof *found->seen);
    found->own_since = shared(found->most * sizeof *found->own_since);
    found->later = shared(sizeof *found->later);
    found->generation = FIRST;
    if (!found->runs || !found->frame_number || !found->seen || !found->own_since || !found->later ||
        !each_mapping(add_mapping, found, ring, pagemap))
        return false;
    see_early(found, ring);
    trap_read_maps(ring); /* for whoever reads the ring should this process be killed */
    return true;
}

void trap_forget(struct inherited *found)
{
    if (found->runs)
        munmap(found->runs, RUNS * sizeof *found->runs);
    if (found->frame_number)
        munmap(found->frame_number, found->most * sizeof *found->frame_number);
    if (found->seen)
        munmap(found->seen, found->most * sizeof *found->seen);
    if (found->own_since)
        munmap(found->own_since, found->most * sizeof *found->own_since);
    if (found->later)
        munmap(found->later, sizeof *found->later);
    *found = (struct inherited){0};
}

int trap_outcome(const struct inherited *all, const struct run *run, uint64_t page, uint64_t entry)
{
    if (!(entry & PM_PRESENT) || entry & PM_FILE)
        return -1;
    uint64_t index = run->at + page - run->first;
    uint64_t before = all->frame_number[index], now = entry & PM_FRAME;
    if (!(all->seen[index] & PAGE_OWN))
        return COPIED_FROM_FILE;
    if (all->seen[index] & PAGE_WATCHED && entry & PM_WATCHED && !(entry & PM_EXCLUSIVE))
        return -1; /* moved, as the kernel does to make room for huge pages */
    return !before || !now ? COPIED_OR_REUSED : before == now ? REUSED : COPIED;
}

const struct run *trap_run_of(const struct inherited *all, uint64_t page)
{
    uint32_t low = 0, high = all->count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (all->runs[middle].last <= page)
            low = middle + 1;
        else
            high = middle;
    }
    const struct run *found = low < all->count ? &all->runs[low] : NULL;
    return found && found->first <= page ? found : NULL;
}
