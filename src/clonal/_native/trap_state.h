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
    bool own_stack, looking;
    int event[TRAP_THREADS];
};

extern struct trap_state clonal_trap;

void clonal_trap_close(void); /* trap.c: the end of the recording of this process */

#endif
