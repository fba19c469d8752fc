/* Recording of copy-on-write faults by SIGTRAP: what the handler writes, and who fills it. */
#ifndef CLONAL_TRAP_H
#define CLONAL_TRAP_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    FAULTS = 1 << 16,        /* records between two drains */
    DRAIN_AT = FAULTS / 2,   /* when the process is asked to drain */
    DRAIN_AFTER = 200000000, /* ns after the latest, the same */
    STACKS = 1 << 14,
    FRAMES = 1 << 18, /* of all stacks together */
    CODES = 1 << 14,
    NAMES = 1 << 14,
    NAMES_TEXT = 1 << 20, /* of all names together */
    DEPTH = 64,           /* frames of one stack, from the innermost */
    TYPES = 1 << 12,
    EARLY = 1 << 12,  /* faults while the pages are looked at */
    TEXT = 1 << 20,   /* of /proc/self/maps */
    BLOCKS = 1 << 12, /* of 2 MiB, with pages that came later */
    BLOCK_PAGES = 512,
};

/* Why a page was written; the order is that of CAUSES in record/trap.py. */
enum cause { CAUSE_UNKNOWN, CAUSE_REFCOUNT, CAUSE_GC, CAUSE_ALLOCATOR, CAUSE_INTERPRETER, CAUSE_DATA };

/* What the fault did, as far as the page map tells. */
enum outcome { COPIED, REUSED, COPIED_OR_REUSED, COPIED_FROM_FILE };

/* Of a page when recording began, and since. */
enum {
    PAGE_SEEN = 1,    /* accounted for */
    PAGE_OWN = 2,     /* anonymous, not the file's */
    PAGE_WATCHED = 4, /* the kernel tells when it is written (trap_watch.c) */
};

/* One fault; 40 bytes, as record/trap.py reads them. */
struct fault {
    uint64_t time; /* CLOCK_MONOTONIC, ns */
    uint64_t address;
    uint64_t ip;
    uint32_t thread;
    uint32_t stack; /* number of a stack, 0: none */
    uint32_t type;  /* number of a type, 0: none known */
    uint8_t cause, outcome, in_pool, spare;
};

struct frame {
    uint32_t code; /* index of ring->code; CODES: not known */
    int32_t line;
};

/* A code object and how it is called. */
struct code {
    uint64_t address, qualname, filename; /* of the objects */
    int32_t first_line;
    uint32_t name, file; /* of ring->names */
};

struct stack {
    uint64_t hash;
    uint32_t first, depth; /* of ring->frames */
};

/* What of a type decides where its objects begin. */
struct shape {
    uint64_t type, flags;
    uint32_t presize;    /* bytes before the object in its block (_PyType_PreHeaderSize) */
    uint32_t size, name; /* of ring->names */
};

/* All that the handler writes to: shared memory that fork leaves out, so writing it never copies a page. */
struct ring {
    uint32_t faults, lost, fresh, stacks, frames, types, codes, name_count, names_end, text_end;
    uint32_t drained_stacks, drained_types; /* what has been written out */
    uint64_t drained_faults;                /* the same; those are no longer in `fault` */
    struct fault fault[FAULTS];
    struct stack stack[STACKS];
    uint32_t stack_index[2 * STACKS]; /* open addressing by hash */
    struct frame frame[FRAMES];
    struct code code[CODES];
    uint32_t code_index[2 * CODES];
    uint32_t name_index[2 * NAMES];
    char names[NAMES_TEXT]; /* each ends with a 0; that at 0 is empty */
    struct shape type[TYPES];
    uint64_t pool; /* the pool of the latest fault, and the size of its blocks */
    uint32_t pool_block;
    uint32_t type_index[2 * TYPES];
    uint32_t early_count;
    uint64_t early[EARLY]; /* page numbers */
    char signal_stack[1 << 16];
    char text[TEXT]; /* /proc/self/maps as it was last: text_end bytes. Where the kernel writes: anywhere else
                        it would copy a page */
    uint64_t entries[1 << 12];
};

/* Generations of one process: between two looks at all of its pages, one more with each fork. */
enum { BEFORE = 1, FIRST = 2, LAST = 255 };

/* 2 MiB with pages that came after the pages were looked at (trap_later.c). */
struct block {
    uint64_t number;
    uint64_t frame_number[BLOCK_PAGES]; /* 0: not shown, or not read */
    uint8_t own_since[BLOCK_PAGES];     /* 0: the page is not known to be there */
    uint8_t looked;                     /* in which generation */
};

struct later {
    uint32_t count, index[2 * BLOCKS]; /* open addressing by number */
    struct block block[BLOCKS];
};

/* Pages that this process shared with another when recording began, as ascending ranges, and the private
 * mappings of files. Each page has an index: its frame number (0 where the kernel does not show it), whether
 * it has been accounted for since, and the generation since which it is this process's alone. */
struct inherited {
    struct run {
        uint64_t first, last; /* page numbers, last excluded */
        uint64_t at;          /* index of the first */
        bool file; /* a private mapping of a file: any page of it is the file's until it is written */
    } *runs;
    uint32_t count;
    uint64_t *frame_number;
    uint8_t *seen, *own_since;
    struct later *later;
    uint8_t generation;
    uint64_t pages, most; /* indices given, and how many there are */
    uint64_t shared, frames_shown, already_own;
    uint64_t unwatched; /* shared anonymous pages of which the kernel does not tell when they are written */
};

/* trap.c: CLOCK_MONOTONIC in nanoseconds */
uint64_t trap_now(void);

/* trap_stack.c: the number of the stack of this thread, from 1; 0 if there is none, or no room */
uint32_t trap_stack(struct ring *ring);

/* The same: the code object that this thread runs if `address` lies in it, else 0. */
uint64_t trap_running_code(uint64_t address);

/* Where in ring->names a text lies from now on; 0 if there is no room. */
uint32_t trap_intern(struct ring *ring, const char *text, uint32_t length);

/* trap_drain.c: reads /proc/self/maps into ring->text; its length */
uint32_t trap_read_maps(struct ring *ring);

/* trap_where.c */
bool trap_look(struct inherited *found, struct ring *ring, int pagemap);
void trap_forget(struct inherited *found);
const struct run *trap_run_of(const struct inherited *all, uint64_t page);

/* The outcome of a fault in a page of `run`, by what the page map says of it then and now; -1: it was only
 * read. */
int trap_outcome(const struct inherited *all, const struct run *run, uint64_t page, uint64_t entry);

/* trap_later.c: what a fault that has just been handled did to its page; -1: it copied nothing. */
int trap_outcome_of_fault(const struct inherited *all, uint64_t page);

/* trap_scan.c: whether an entry of the page map is that of a shared page; or of the page of zeroes, to write
 * to which copies nothing: those entries are cleared. From Linux 6.7. */
bool trap_is_shared(uint64_t entry);
void trap_without_zeroes(uint64_t first, uint64_t count, uint64_t *entries);

/* Whether something else has been mapped where this page, that was watched, has been. */
bool trap_remapped(uint64_t page);

/* trap_what.c: cause and type of a write to `address`, whose page is present. */
void trap_classify(struct ring *ring, struct fault *fault);

/* Whether the address, whose page is present, lies in a pool of small Python objects. */
bool trap_in_pool(struct ring *ring, uint64_t address);

/* Reads memory that may not be there: true if all of it was. No fault, no signal. */
bool trap_peek(uint64_t from, void *to, unsigned long length);

#endif
