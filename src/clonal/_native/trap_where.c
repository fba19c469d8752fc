/* Which pages does this process share with others? /proc/self/maps and /proc/self/pagemap say it without
 * privilege: present (bit 63), not of a file (bit 61). With CAP_SYS_ADMIN the frame number is there too. */
#define _GNU_SOURCE
#include "trap.h"

#include "sys.h"
#include "text.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#define PM_PRESENT (1ULL << 63)
#define PM_FILE (1ULL << 61)
#define PM_EXCLUSIVE (1ULL << 56)
#define PM_FRAME ((1ULL << 55) - 1)

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
    return found->private && readable && found->end < 1ULL << 47;
}

static void add_page(struct inherited *all, uint64_t page, uint64_t entry)
{
    struct run *last = all->count ? &all->runs[all->count - 1] : NULL;
    if (!last || last->file || last->last != page) {
        if (all->count == RUNS)
            return;
        last = &all->runs[all->count++];
        *last = (struct run){.first = page, .at = all->pages};
    }
    last->last = page + 1;
    all->frame_number[all->pages++] = entry & PM_FRAME;
    all->frames_shown += (entry & PM_FRAME) != 0;
}

/* Its present anonymous pages; those that it alone maps are counted only. */
static bool add_anonymous(struct inherited *all, const struct mapping *vma, int pagemap)
{
    static uint64_t entries[CHUNK];
    for (uint64_t page = vma->start / 4096; page < vma->end / 4096; page += CHUNK) {
        uint64_t count = vma->end / 4096 - page < CHUNK ? vma->end / 4096 - page : CHUNK;
        if (pread(pagemap, entries, count * 8, (off_t)page * 8) != (ssize_t)(count * 8))
            return false;
        for (uint64_t i = 0; i < count; i++) {
            bool own = (entries[i] & (PM_PRESENT | PM_FILE)) == PM_PRESENT;
            if (own && entries[i] & PM_EXCLUSIVE)
                all->already_own++;
            else if (own)
                add_page(all, page + i, entries[i]);
        }
    }
    return true;
}

/* A private mapping of a file: shared pages of its own first, and the mapping as a whole. */
static void add_file(struct inherited *all, const struct mapping *vma)
{
    if (all->count < RUNS)
        all->runs[all->count++] =
            (struct run){.first = vma->start / 4096, .last = vma->end / 4096, .file = true};
}

static uint64_t private_pages(void)
{
    static char buffer[1 << 14];
    struct line_reader reader = {
        open("/proc/self/maps", O_RDONLY | O_CLOEXEC), buffer, sizeof buffer, 0, 0, 0};
    uint64_t pages = 0;
    struct mapping vma;
    for (char *line; reader.fd >= 0 && (line = read_line(&reader));)
        if (parse(line, &vma) && !vma.file)
            pages += (vma.end - vma.start) / 4096;
    if (reader.fd >= 0)
        close(reader.fd);
    return pages;
}

bool trap_look(struct inherited *found, int pagemap)
{
    static char buffer[1 << 14];
    *found = (struct inherited){0};
    found->runs = shared(RUNS * sizeof *found->runs);
    uint64_t most = private_pages() + (1 << 16);
    found->frame_number = shared(most * 8);
    struct line_reader reader = {
        open("/proc/self/maps", O_RDONLY | O_CLOEXEC), buffer, sizeof buffer, 0, 0, 0};
    bool good = found->runs && found->frame_number && reader.fd >= 0;
    struct mapping vma;
    for (char *line; good && (line = read_line(&reader));) {
        if (!parse(line, &vma))
            continue;
        if (vma.file)
            add_file(found, &vma);
        else if (found->pages + (vma.end - vma.start) / 4096 <= most)
            good = add_anonymous(found, &vma, pagemap);
    }
    if (reader.fd >= 0)
        close(reader.fd);
    return good;
}

void trap_forget(struct inherited *found)
{
    if (found->runs)
        munmap(found->runs, RUNS * sizeof *found->runs);
    found->runs = NULL; /* frame_number stays mapped until the process ends: its length is not kept */
    found->count = 0;
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
