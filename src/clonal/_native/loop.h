/* The template's loop: its state, and what serve.c, slots.c and birth.c do for each other. */
#ifndef CLONAL_LOOP_H
#define CLONAL_LOOP_H

#include "native.h"
#include "serve.h"
#include "sys.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <time.h>

#define NS 1000000000LL

enum slot_kind { FREE, CLONE, STANDBY_STARTING, STANDBY_READY };

struct slot {
    int32_t fd; /* owned; -1 when closed early */
    pid_t pid;
    int32_t next_free;
    uint8_t kind, flags, watched, told;
    int64_t started;  /* CLOCK_MONOTONIC */
    int64_t deadline; /* 0: none */
};

/* In a MADV_DONTFORK mapping: children do not have it. */
struct loop {
    int control, epoll, sigfd, wire, base;
    int want_standby, have_standby, failed_standby;
    int used, free_list; /* slots[0..used) were used at some time */
    int deadlines;       /* how many slots have one */
    int live;
    int closing;
    int64_t closing_deadline, replenish_at;
    pid_t pid;
    uint64_t mask;
    struct board *board;
    struct slot slots[SLOTS];
};

enum { KEY_CONTROL = SLOTS, KEY_SIGNAL };

/* What a child needs and cannot read from the loop's mapping. */
struct birth {
    int fd, wire, base, slot, standby;
    int lesson; /* this clone is to tell which pages it touches */
    pid_t parent;
    uint64_t mask;
    struct sigaction term, chld;
    struct rlimit files;
};

/* The same, by a system call: in a fresh clone the vDSO's pages would have to be mapped first. */
static inline int64_t now_ns_by_call(void)
{
    struct timespec t;
    SYS(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
    return t.tv_sec * NS + t.tv_nsec;
}

static inline int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * NS + t.tv_nsec;
}

/* birth.c: forks a clone; in it leaves only the program's own descriptors, signals and limits. In the
 * child 0, in the template the pid or -errno. */
long fork_child(struct loop *loop, struct birth *birth);

/* life.c: all that a clone does from here to its end. */
_Noreturn void live(const struct birth *birth, struct board *board);

/* life.c: does in this process, on nothing, what a clone does for a request. */
void rehearse_life(void);

/* life.c: the next forks are clones of this process: whether it has one thread, and whether nothing was left
 * in it for clones to flush. */
void expect_clones(int single, int only_flushes);

/* slots.c: one clone for one order, whose socket is `fd` (taken over). True in the child. */
int make_clone(struct loop *loop, struct birth *birth, const struct order *order, int fd);

/* One more standby clone. True in the child. Failures end the attempt until a clone has ended. */
int make_standby(struct loop *loop, struct birth *birth);

/* Whether standby clones are missing and may be made. */
int standby_lacking(const struct loop *loop);

/* Reaps every child that has ended; also those that the warm-up left behind. */
void reap(struct loop *loop);

/* The other end of a slot's socket closed, or a standby clone says that it is ready. */
void socket_event(struct loop *loop, int index, uint32_t events);

/* Tells the clients' handles which clones have started, with pid and pidfd, as far as not yet done. Not
 * at the fork: on few processors the client that this wakes would delay the clone. */
void tell_started(struct loop *loop);

/* Kills the clones whose time is up. */
void enforce_deadlines(struct loop *loop);

/* Kills the clones: all, or those that have not answered yet. */
void end_clones(struct loop *loop, int all);

#endif
