/* Which pages do clones always write, and which always read? The first clones tell; standby clones copy
 * the former ahead, and the template maps the latter, so that fork copies the entries.
 *
 * A page of a private mapping that is anonymous and mapped by this process alone was copied (or newly
 * made) by it: bits 63 (present), 61 (file or shared memory) and 56 (exclusively mapped) of
 * /proc/self/pagemap say so without privilege. The addresses are counted on the board.
 */
#define _GNU_SOURCE
#include "native.h"
#include "pagemap.h"
#include "serve.h"
#include "sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

enum { PREFAULT_MOST = 8192, READ_MOST = 3072, BLOCK_PAGES = 512, ISOLATE_MOST = 8192 };

/* A mapping with a page of one's own costs a fork 1 to 2 us more: below this many faults it is not worth it.
 */
enum { WORTH_FAULTS = 6, WINDOW_SHIFT = 16 };

struct reader {
    int fd;
    int length, at;
    char buffer[4096];
};

static int next_char(struct reader *reader)
{
    if (reader->at == reader->length) {
        reader->length = (int)read(reader->fd, reader->buffer, sizeof reader->buffer);
        reader->at = 0;
        if (reader->length <= 0) {
            reader->length = 0;
            return -1;
        }
    }
    return (unsigned char)reader->buffer[reader->at++];
}

static uint64_t next_hex(struct reader *reader)
{
    uint64_t value = 0;
    for (;;) {
        int c = next_char(reader);
        if (c >= '0' && c <= '9')
            value = value << 4 | (uint64_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            value = value << 4 | (uint64_t)(c - 'a' + 10);
        else
            return value;
    }
}

struct mapping {
    uint64_t start, end;
    int writable;
};

/* The next private, readable mapping of /proc/self/maps that is not the kernel's. False at the end. */
static int next_mapping(struct reader *reader, struct mapping *found)
{
    for (;;) {
        found->start = next_hex(reader);
        found->end = next_hex(reader);
        char perms[4] = {0};
        for (int i = 0; i < 4; i++)
            perms[i] = (char)next_char(reader);
        int c, before = 0, special = 0; /* [vdso], [vvar], [stack] */
        for (; (c = next_char(reader)) != '\n'; before = c) {
            if (c < 0)
                return 0;
            special |= before == '[' && (c == 'v' || c == 's');
        }
        found->writable = perms[1] == 'w';
        if (perms[0] == 'r' && perms[3] == 'p' && !special)
            return 1;
    }
}

/* Counts one page. False when the table is too full to go on. */
static int count_page(struct board *board, uint64_t page, uint64_t page_size, int written)
{
    uint64_t hash = (page / page_size) * 0x9E3779B97F4A7C15ULL >> 32;
    for (unsigned probe = 0; probe < 64; probe++) {
        struct learnt_page *entry = &board->table[(hash + probe) % LEARNT];
        uint64_t found = 0;
        if (__atomic_compare_exchange_n(&entry->page, &found, page, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED) ||
            found == page) {
            __atomic_fetch_add(written ? &entry->written : &entry->read, 1, __ATOMIC_RELAXED);
            return 1;
        }
    }
    return 0;
}

/* Mapped here, and a page of a file or of shared memory: dropped, it comes back the same. */
static int is_files(uint64_t entry)
{
    return (entry & (PM_PRESENT | PM_FILE)) == (PM_PRESENT | PM_FILE);
}

static int is_own(uint64_t entry)
{
    return (entry & (PM_PRESENT | PM_FILE)) == PM_PRESENT;
}

/* True if all of a block's entries are a file's: a huge page, which clones map by one fault anyway. */
static int is_huge(const uint64_t *entries, ssize_t count)
{
    if (count < BLOCK_PAGES)
        return 0;
    for (ssize_t i = 0; i < count; i++)
        if (!is_files(entries[i]))
            return 0;
    return 1;
}

/* Reads the entries of the block that `page` (a page number) lies in, up to `last`; how many. */
static ssize_t read_block(int pagemap, uint64_t page, uint64_t last, uint64_t *entries)
{
    uint64_t next = (page / BLOCK_PAGES + 1) * BLOCK_PAGES;
    long got = SYS(SYS_pread64, pagemap, entries, ((next < last ? next : last) - page) * 8, page * 8);
    return got < 0 ? 0 : got / 8;
}

static int open_pagemap(pid_t pid)
{
    char path[40];
    snprintf(path, sizeof path, "/proc/%d/pagemap", (int)pid);
    return open(path, O_RDONLY | O_CLOEXEC);
}

static void close_all(int a, int b, int c)
{
    for (int i = 0, fds[] = {a, b, c}; i < 3; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

/* Makes of each page of the run a mapping of its own, and drops what fork copied of it. */
static int isolate(uint64_t first, uint64_t count, uint64_t size)
{
    for (uint64_t page = first; page < first + count; page += 2)
        if (SYS(SYS_madvise, page * size, size, MADV_SEQUENTIAL) < 0)
            return 0;
    return SYS(SYS_madvise, first * size, count * size, MADV_DONTNEED) == 0;
}

/* Isolates what the template has mapped of a file's pages in this mapping; how many pages. */
static int isolate_mapping(const struct mapping *mapping, int template, int own, uint64_t size, int most)
{
    uint64_t theirs[BLOCK_PAGES], ours[BLOCK_PAGES], last = mapping->end / size;
    int done = 0;
    for (uint64_t page = mapping->start / size; page < last && done < most;) {
        ssize_t got = read_block(template, page, last, theirs);
        if (got <= 0 || read_block(own, page, last, ours) != got)
            break;
        for (ssize_t i = 0, count; i < got && !is_huge(theirs, got); i += count + 1) {
            for (count = 0; i + count < got && is_files(theirs[i + count]) && !is_own(ours[i + count]);)
                count++;
            if (count && !isolate(page + (uint64_t)i, (uint64_t)count, size))
                return done;
            done += (int)count;
        }
        page += (uint64_t)got;
    }
    return done;
}

void begin_lesson(pid_t template)
{
    struct reader reader = {.at = 0, .length = 0};
    struct mapping mapping;
    uint64_t size = (uint64_t)sysconf(_SC_PAGESIZE);
    int left = ISOLATE_MOST, theirs = open_pagemap(template), ours = open_pagemap(getpid());
    reader.fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    while (theirs >= 0 && ours >= 0 && reader.fd >= 0 && left > 0 && next_mapping(&reader, &mapping))
        left -= isolate_mapping(&mapping, theirs, ours, size, left);
    close_all(theirs, ours, reader.fd);
}

/* Counts what is mapped of one mapping, block by block. False when the table is too full to go on. */
static int count_mapping(struct board *board, int pagemap, const struct mapping *mapping, uint64_t size)
{
    uint64_t entries[BLOCK_PAGES], last = mapping->end / size;
    for (uint64_t page = mapping->start / size, next; page < last; page = next) {
        next = (page / BLOCK_PAGES + 1) * BLOCK_PAGES;
        if (next > last)
            next = last;
        ssize_t got = read_block(pagemap, page, last, entries);
        if (is_huge(entries, got))
            continue;
        for (ssize_t i = 0; i < got; i++) {
            int written = (entries[i] & (PM_PRESENT | PM_FILE | PM_EXCLUSIVE)) == (PM_PRESENT | PM_EXCLUSIVE);
            if (entries[i] & PM_PRESENT && !count_page(board, (page + (uint64_t)i) * size, size, written))
                return 0;
        }
    }
    return 1;
}

static int by_address(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Collects the pages that most of the clones wrote (or else mapped) into runs; how many. */
static uint64_t collect(const struct board *board, int written, uint64_t *pages, struct run *runs,
                        uint64_t size)
{
    int count = 0, most = written ? PREFAULT_MOST : READ_MOST;
    uint64_t found = 0;
    for (int i = 0; i < LEARNT && count < most; i++) {
        const struct learnt_page *entry = &board->table[i];
        int often = entry->written * 2 > board->lessons;
        if (!written)
            often = !often && (entry->written + entry->read) * 2 > board->lessons;
        if (entry->page && often)
            pages[count++] = entry->page;
    }
    qsort(pages, (size_t)count, sizeof *pages, by_address);
    for (int first = 0, next; first < count && found < RUNS; first = next) {
        for (next = first + 1; next < count && pages[next] == pages[next - 1] + size; next++)
            ;
        runs[found++] = (struct run){pages[first], (uint64_t)(next - first) * size};
    }
    return found;
}

/* Once enough clones have told: turns what most of them did into runs. */
static void conclude(struct board *board, uint64_t size)
{
    size_t room = PREFAULT_MOST * sizeof(uint64_t);
    uint64_t *pages = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED)
        return;
    board->read_count = collect(board, 0, pages, board->reads, size);
    uint64_t runs = collect(board, 1, pages, board->runs, size);
    munmap(pages, room);
    __atomic_store_n(&board->run_count, runs, __ATOMIC_RELEASE);
}

int prefault_learnt(const struct board *board)
{
    int runs = (int)__atomic_load_n(&board->run_count, __ATOMIC_ACQUIRE);
    for (int i = 0; i < runs; i++) /* pages that are gone, and kernels before 5.14, are no matter */
        SYS(SYS_madvise, board->runs[i].start, board->runs[i].size, MADV_POPULATE_WRITE);
    return runs;
}

/* The first of the runs (by address) that ends behind `address`. */
static const struct run *first_run(const struct run *runs, uint64_t count, uint64_t address)
{
    while (count && runs->start + runs->size <= address)
        runs++, count--;
    return count ? runs : NULL;
}

/* Makes one page of the mapping this process's own, with the same content: only then fork copies the
 * mapping's entries. What may not be written is written as a debugger writes a breakpoint. */
static void own_a_page(const struct mapping *mapping, uint64_t address, uint64_t size, int memory)
{
    char byte;
    if (mapping->writable)
        SYS(SYS_madvise, address, size, MADV_POPULATE_WRITE);
    else if (pread(memory, &byte, 1, (off_t)address) == 1 && pwrite(memory, &byte, 1, (off_t)address) != 1)
        return; /* not allowed here: clones fault as before */
}

/* How many read faults the runs from `run` on that lie in the mapping would cost a clone: the kernel maps a
 * window of 64 KiB around each. */
static uint64_t faults_saved(const struct board *board, const struct run *run, const struct mapping *mapping)
{
    uint64_t windows = 0, last = 0;
    for (; run < board->reads + board->read_count && run->start < mapping->end; run++)
        for (uint64_t window = run->start >> WINDOW_SHIFT;
             window <= (run->start + run->size - 1) >> WINDOW_SHIFT; window++) {
            windows += window != last;
            last = window;
        }
    return windows;
}

/* Whether the page lies in one of the runs; `*run` goes on with ascending pages. */
static int within(const struct run **run, const struct run *end, uint64_t address)
{
    while (*run < end && (*run)->start + (*run)->size <= address)
        ++*run;
    return *run < end && (*run)->start <= address;
}

/* Unmaps what clones do not need of a file's pages in the mapping: fork would copy those entries too. */
static void drop_unneeded(const struct board *board, const struct mapping *mapping, int pagemap,
                          uint64_t size)
{
    const struct run *read = board->reads, *written = board->runs;
    uint64_t entries[BLOCK_PAGES], last = mapping->end / size;
    for (uint64_t page = mapping->start / size; page < last;) {
        ssize_t got = read_block(pagemap, page, last, entries);
        if (got <= 0)
            return;
        for (ssize_t i = 0, count; i < got; i += count + 1) { /* huge ones too: fork does not copy those */
            for (count = 0; i + count < got && is_files(entries[i + count]); count++) {
                uint64_t address = (page + (uint64_t)(i + count)) * size;
                if (within(&read, board->reads + board->read_count, address) ||
                    within(&written, board->runs + board->run_count, address))
                    break;
            }
            if (count)
                SYS(SYS_madvise, (page + (uint64_t)i) * size, (uint64_t)count * size, MADV_DONTNEED);
        }
        page += (uint64_t)got;
    }
}

/* Whether a page of the mapping is this process's own. */
static int has_own(const struct mapping *mapping, int pagemap, uint64_t size)
{
    uint64_t entries[BLOCK_PAGES], last = mapping->end / size;
    for (uint64_t page = mapping->start / size; page < last;) {
        ssize_t got = read_block(pagemap, page, last, entries);
        if (got <= 0)
            return 0;
        for (ssize_t i = 0; i < got; i++)
            if (is_own(entries[i]))
                return 1;
        page += (uint64_t)got;
    }
    return 0;
}

static void populate(const struct run *run, uint64_t count, const struct mapping *mapping)
{
    for (; count && run->start < mapping->end; run++, count--)
        if (run->start >= mapping->start)
            SYS(SYS_madvise, run->start, run->size, MADV_POPULATE_READ);
}

void map_learnt_reads(const struct board *board)
{
    struct reader reader = {.at = 0, .length = 0};
    struct mapping mapping;
    uint64_t size = (uint64_t)sysconf(_SC_PAGESIZE);
    int memory = open("/proc/self/mem", O_RDWR | O_CLOEXEC), pagemap = open_pagemap(getpid());
    reader.fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    while (reader.fd >= 0 && pagemap >= 0 && next_mapping(&reader, &mapping)) {
        const struct run *read = first_run(board->reads, board->read_count, mapping.start);
        const struct run *written = first_run(board->runs, board->run_count, mapping.start);
        int known = written && written->start >= mapping.start && written->start < mapping.end;
        if (!has_own(&mapping, pagemap, size)) {
            if (!read || read->start >= mapping.end || faults_saved(board, read, &mapping) < WORTH_FAULTS)
                continue;
            own_a_page(&mapping, known && mapping.writable ? written->start : read->start, size, memory);
        }
        if (read)
            populate(read, (uint64_t)(board->reads + board->read_count - read), &mapping);
        if (known)
            populate(written, (uint64_t)(board->runs + board->run_count - written), &mapping);
        drop_unneeded(board, &mapping, pagemap, size);
    }
    close_all(memory, pagemap, reader.fd);
}

void learn(struct board *board)
{
    struct reader reader = {.at = 0, .length = 0};
    struct mapping mapping;
    if (board->learnt_clones >= board->lessons)
        return;
    uint64_t size = (uint64_t)sysconf(_SC_PAGESIZE);
    int pagemap = open_pagemap(getpid());
    reader.fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    if (pagemap >= 0 && reader.fd >= 0) {
        while (next_mapping(&reader, &mapping) && count_mapping(board, pagemap, &mapping, size))
            ;
    }
    if (__atomic_add_fetch(&board->learnt_clones, 1, __ATOMIC_ACQ_REL) == board->lessons)
        conclude(board, size);
    close_all(pagemap, -1, reader.fd);
}

static PyObject *learn_pages(PyObject *self, PyObject *args)
{
    unsigned long long address;
    (void)self;
    if (!PyArg_ParseTuple(args, "K", &address))
        return NULL;
    learn((struct board *)(uintptr_t)address);
    Py_RETURN_NONE;
}

PyMethodDef clonal_pagemap_methods[] = {
    {"learn_pages", learn_pages, METH_VARARGS,
     "learn_pages(board): counts the pages this clone touched, if that is still wanted."},
    {NULL},
};
