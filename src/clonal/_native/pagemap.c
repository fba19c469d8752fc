/* Which pages do clones always write, and which always read? The first clones tell; standby clones copy
 * the former ahead, and the template maps the latter, so that fork copies the entries.
 *
 * A page of a private mapping that is anonymous and mapped by this process alone was copied (or newly
 * made) by it: bits 63 (present), 61 (file or shared memory) and 56 (exclusively mapped) of
 * /proc/self/pagemap say so without privilege. The addresses are counted on the board.
 */
#define _GNU_SOURCE
#include "native.h"
#include "serve.h"
#include "sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

#define PM_PRESENT (1ULL << 63)
#define PM_FILE (1ULL << 61)
#define PM_EXCLUSIVE (1ULL << 56)

enum { PREFAULT_MOST = 8192, READ_MOST = 3072, BLOCK_PAGES = 512 };

/* A mapping with a page of one's own costs a fork 1 to 2 us more: below this many faults it is not worth it.
 */
enum { WORTH_FAULTS = 8, WINDOW_SHIFT = 16 };

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

/* True if all of a block's entries are a file's: a huge page, which clones map by one fault anyway. */
static int is_huge(const uint64_t *entries, ssize_t count)
{
    if (count < BLOCK_PAGES)
        return 0;
    for (ssize_t i = 0; i < count; i++)
        if ((entries[i] & (PM_PRESENT | PM_FILE)) != (PM_PRESENT | PM_FILE))
            return 0;
    return 1;
}

/* Counts what is mapped of one mapping, block by block. False when the table is too full to go on. */
static int count_mapping(struct board *board, int pagemap, const struct mapping *mapping, uint64_t size)
{
    uint64_t entries[BLOCK_PAGES], last = mapping->end / size;
    for (uint64_t page = mapping->start / size, next; page < last; page = next) {
        next = (page / BLOCK_PAGES + 1) * BLOCK_PAGES;
        if (next > last)
            next = last;
        ssize_t got = pread(pagemap, entries, (next - page) * 8, (off_t)(page * 8)) / 8;
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

void map_learnt_reads(const struct board *board)
{
    struct reader reader = {.at = 0, .length = 0};
    struct mapping mapping;
    uint64_t size = (uint64_t)sysconf(_SC_PAGESIZE);
    int memory = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
    reader.fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    while (reader.fd >= 0 && next_mapping(&reader, &mapping)) {
        const struct run *read = first_run(board->reads, board->read_count, mapping.start);
        if (!read || read->start >= mapping.end || faults_saved(board, read, &mapping) < WORTH_FAULTS)
            continue;
        const struct run *written = first_run(board->runs, board->run_count, mapping.start);
        int known =
            mapping.writable && written && written->start >= mapping.start && written->start < mapping.end;
        own_a_page(&mapping, known ? written->start : read->start, size, memory);
        for (; read < board->reads + board->read_count && read->start < mapping.end; read++)
            SYS(SYS_madvise, read->start, read->size, MADV_POPULATE_READ);
    }
    if (memory >= 0)
        close(memory);
    if (reader.fd >= 0)
        close(reader.fd);
}

static PyObject *learn_pages(PyObject *self, PyObject *args)
{
    unsigned long long address;
    struct reader reader = {.at = 0, .length = 0};
    struct mapping mapping;
    uint64_t size = (uint64_t)sysconf(_SC_PAGESIZE);
    (void)self;
    if (!PyArg_ParseTuple(args, "K", &address))
        return NULL;
    struct board *board = (struct board *)(uintptr_t)address;
    if (board == NULL || board->learnt_clones >= board->lessons)
        Py_RETURN_FALSE;
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    reader.fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    if (pagemap >= 0 && reader.fd >= 0) {
        while (next_mapping(&reader, &mapping) && count_mapping(board, pagemap, &mapping, size))
            ;
    }
    if (__atomic_add_fetch(&board->learnt_clones, 1, __ATOMIC_ACQ_REL) == board->lessons)
        conclude(board, size);
    if (pagemap >= 0)
        close(pagemap);
    if (reader.fd >= 0)
        close(reader.fd);
    Py_RETURN_TRUE;
}

PyMethodDef clonal_pagemap_methods[] = {
    {"learn_pages", learn_pages, METH_VARARGS,
     "learn_pages(board): counts the pages this clone wrote, if that is still wanted."},
    {NULL},
};
