/* What the program keeps between two events. */
#ifndef CLONAL_MAPS_BPF_H
#define CLONAL_MAPS_BPF_H

#include "event.h"

/* A fault that is being handled, and room for what is told of it: one for each thread, since a handler may
 * sleep. */
struct thread {
    __u64 address, ip;
    __u64 faults; /* of the thread so far: while it is the same, it is the same fault */
    __u32 error, pending, owner, wake;
    __u64 state;        /* PyThreadState * */
    char raw[RAW + 64]; /* a frame; no offset is beyond */
    struct full_event event;
};

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, RING);
} ring SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, PROCESSES);
    __type(key, __u32);
    __type(value, struct process);
} processes SEC(".maps");

/* Only user space knows where an interpreter is: apart, so that neither overwrites what the other says. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, PROCESSES);
    __type(key, __u32);
    __type(value, struct python);
} pythons SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_TASK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, int);
    __type(value, struct thread);
} threads SEC(".maps");

/* What user space has been told of: stacks, code objects, types; by program. */
struct known {
    __u64 what, image;
};

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 1 << 15);
    __type(key, struct known);
    __type(value, __u8);
} told SEC(".maps");

__u64 images = 0; /* programs executed so far */

#endif
