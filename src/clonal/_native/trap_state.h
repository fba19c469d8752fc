/* What trap.c and trap_drain.c share: the state of the recording of this process. */
#ifndef CLONAL_TRAP_STATE_H
#define CLONAL_TRAP_STATE_H

#include "trap.h"

#include <sys/types.h>

enum { TRAP_THREADS = 512 };

struct trap_state {
    struct ring *ring;
    struct inherited inherited;
    pid_t owner; /* whose ring it is: a child makes its own */
    int pagemap, memory, events, drain_signal, busy;
    int watch, watch_refused; /* a userfaultfd, -1: none, because of this errno */
    uint64_t sentinel;        /* number of a page that is watched and never written */
    int ring_file;            /* until it is handed over */
    uint64_t drained_at;      /* CLOCK_MONOTONIC, ns */
    bool own_stack, looking;
    int event[TRAP_THREADS];
};

extern struct trap_state clonal_trap;

/* trap_theirs.c: does with a SIGTRAP that no fault sent what the program wants; async-signal-safe */
void trap_pass_on(const siginfo_t *info);

/* Whether the program has a handler of its own, in Python, that is called from here. */
bool trap_has_their_handler(void);

struct ring *trap_new_ring(void); /* trap_keep.c; NULL where there is no memory */

/* trap.c: the end of the recording of this process. If the process ends too, the kernel lets go of what was
 * watched faster than can be done here. */
void clonal_trap_close(bool ends);

/* Whether a descriptor still is what was opened under its number: /proc/self/fd says so. A program may close
 * all that it finds, as daemons do, and open others. */
bool trap_is_ours(int fd, const char *what);

/* Closes it then. */
void trap_let_go(int fd, const char *what);

/* Whether the recording of this process still has its descriptors. */
bool trap_is_whole(void);

/* trap_watch.c */
void trap_watch_open(void);
void trap_watch_close(void);

/* Whether what was watched still is: a program may close every descriptor that it finds. */
bool trap_watched(void);

/* Watches the shared pages of a private anonymous mapping; `run` is the first run that may have some. */
void trap_watch_mapping(struct inherited *all, uint32_t run, uint64_t start, uint64_t end);

#endif
