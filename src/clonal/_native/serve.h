/* What the template's loop, its clones and the client agree on: messages and the shared board. */
#ifndef CLONAL_SERVE_H
#define CLONAL_SERVE_H

#include <stdint.h>
#include <sys/types.h>

/* Every message on a clone's socket starts with this; wire.py has the same format. */
struct message {
    uint8_t kind;
    uint8_t flags;
    uint16_t extra;
    int32_t value; /* a pid, a wait status, an errno */
    int64_t ns;    /* CLOCK_MONOTONIC when it was sent */
};

enum { MSG_STARTED = 'S', MSG_EXITED = 'X', MSG_REFUSED = 'F' };
enum { EXIT_TIMED_OUT = 1, EXIT_ABANDONED = 2 };

struct exited {
    struct message head;
    uint64_t cpu_us;
    uint64_t minflt;
    uint64_t maxrss_kb;
};

/* A request for one clone, on the control socket; its own socket comes along by SCM_RIGHTS. */
struct order {
    uint64_t deadline_ns; /* CLOCK_MONOTONIC; 0: none */
};

enum { SLOTS = 16384, LEARNT = 32768, RUNS = 4096 };
enum { CLONE_RUNNING = 0, CLONE_DELIVERED = 1 };

struct learnt_page {
    uint64_t page;    /* address, 0: free */
    uint32_t written; /* in how many clones it was */
    uint32_t read;    /* in how many it was only mapped */
};

struct run {
    uint64_t start, size;
};

/* A MAP_SHARED memfd: written by template and clones, read by the client with pread. */
struct board {
    uint64_t forks, fork_ns, faults, live, exited, handed, standby_ready, learnt_clones;
    uint64_t lessons;     /* how many clones are to tell which pages they wrote */
    uint8_t state[SLOTS]; /* CLONE_*, by slot: a clone sets DELIVERED before it sends its result */
    struct learnt_page table[LEARNT];
    uint64_t run_count; /* set last, when what is always written is known */
    struct run runs[RUNS];
    uint64_t read_count;    /* set before run_count */
    struct run reads[RUNS]; /* always mapped, not always written */
};

enum { BOARD_COUNTERS = 8 };

/* Maps the board's memfd shared. NULL with a Python error set on failure. Never unmapped. */
struct board *board_map(int fd);

/* Copies, in this process, the pages that earlier clones always wrote: one call for a run of pages
 * costs a fraction of a fault for each. How many runs; 0 while it is not known. */
int prefault_learnt(const struct board *board);

/* In a clone that is to tell which pages it touches: from here on each costs a fault of its own, so that what
 * is mapped at the end was touched. (The kernel maps the 15 pages around a read fault too, but none beyond
 * the mapping: each page that the template has mapped becomes a mapping, in this clone only.) */
void begin_lesson(pid_t template);

/* In a clone that has answered: counts the pages it touched, if that is still wanted. */
void learn(struct board *board);

/* In the template, once it is known: maps what clones always read, and makes a page of its own in each such
 * mapping, so that fork copies the entries: some 10 ns each, against a fault in each clone. */
void map_learnt_reads(const struct board *board);

#endif
