/* Stops the other threads of this process at a signal, so that nothing writes while memory is switched. */
#ifndef CLONAL_STOP_H
#define CLONAL_STOP_H

#include <stdint.h>

#define STOP_MAX 4096

struct stopped_thread {
    int tid;
    uint64_t stack; /* its stack pointer */
    uint64_t tls;   /* its thread pointer */
};

struct stop_result {
    int count;      /* threads stopped */
    int failed_tid; /* the one that could not be, or 0 */
    const char *failed_reason;
    const struct stopped_thread *threads;
};

/* Prepares the state; may allocate. Returns 0 or a negative errno. Call before stop_threads. */
int stop_prepare(void);

/* Stops every other thread. 0: all are stopped until release_threads(). -1: one could not be (result
 * says which); the others run again. Raw system calls only; all signals are blocked in the caller. */
int stop_threads(struct stop_result *result);

void release_threads(void);

/* Memory that must stay as it is while threads are stopped. */
void stop_memory(uint64_t *start, uint64_t *end);

#endif
