/* What the eBPF program tells and is told: shared by copies.bpf.c, loader.c and observe/record/bpf_events.py.
 */
#ifndef CLONAL_BPF_EVENT_H
#define CLONAL_BPF_EVENT_H

#include <linux/types.h>

enum {
    DEPTH = 64,        /* frames of one stack, from the innermost */
    RING = 32 << 20,   /* bytes; about 100,000 copies */
    RESERVE = 1 << 20, /* of the ring, for what is not a copy: losing that would lose a process */
    PROCESSES = 1 << 14,
    OBJECT = 208, /* bytes of a code object or a type, and of what it points to */
    NAME = 256,
    FILE_NAME = 512,
    LINES = 3120,
};

enum event_kind { EVENT_COPY = 1, EVENT_FORK, EVENT_EXEC, EVENT_EXIT, EVENT_OBJECT };

/* Of an event. What could be read, and what kind of write it was. */
enum event_flag {
    BY_KERNEL = 1, /* in a system call: `ip` is 0 */
    FROM_FILE = 2, /* the page was not there: a private mapping of a file, copied at the first write */
    NOT_SURE = 4,  /* the mapping could not be looked up */
    POOL_READ = 8, /* `pool` is filled, and so on */
    BLOCK_READ = 16,
    AT_READ = 32,
    VFORKED = 64,  /* the child borrows its parent's memory until it executes */
    FIRST = 128,   /* the first fork of the process */
    OF_FILE = 256, /* in a private mapping of a file */
};

struct frame {
    __u64 code;        /* PyCodeObject * */
    __u64 instruction; /* _Py_CODEUNIT * */
};

/* One copy, with raw evidence of what was about to be written; or a turn in a process's life. */
struct event {
    __u64 time;    /* CLOCK_MONOTONIC, ns */
    __u64 address; /* of an exec: where the program's code begins, and where it ends */
    __u64 ip;
    __u32 kind;
    __u32 pid; /* whose memory it is */
    __u32 thread;
    __u32 child; /* of a fork */
    __u32 flags;
    __u32 depth; /* of `frame` */
    __u64 fresh; /* of a process that ends: first touches since it was recorded, and copies lost */
    __u64 lost;
    __u64
        pool[6]; /* the header of the pool of small objects there would be; of an exec, the program's name */
    __u64 block[8]; /* the beginning of the block in it */
    __u64 at[4];    /* from the address on */
};

/* A code object or a type, at `address`, when it is first seen: by the time that user space reads what it is
 * told, the process may have ended. `block` has the address and the length of each text. */
struct object_event {
    struct event head;
    char object[OBJECT];
    char name[NAME];
    char file[FILE_NAME];
    char lines[LINES];
};

struct full_event {
    struct event head;
    struct frame frame[DEPTH];
};

/* Where CPython keeps what is needed of it, in bytes; tests compare it with CPython's headers. */
struct layout {
    __u32 interpreters; /* _PyRuntime.interpreters.head */
    __u32 next_interpreter;
    __u32 threads; /* PyInterpreterState.threads.head */
    __u32 next_thread;
    __u32 thread_id;
    __u32 c_frame;                            /* PyThreadState.cframe, or NO_C_FRAME */
    __u32 current_frame;                      /* of it, or of PyThreadState */
    __u32 code, instruction, previous, owner; /* of _PyInterpreterFrame */
    __u32 not_python;                         /* the value of `owner` that says so */
    __u32 first_line, file_name, qualified_name, line_table, instructions; /* of PyCodeObject */
    __u32 ascii, compact;                   /* sizes of what comes before the text of a str */
    __u32 data;                             /* of PyBytesObject */
    __u32 type_name, type_size, type_flags; /* of PyTypeObject */
    __u32 padding;
};

enum { NO_C_FRAME = 0xffff };

enum process_state {
    FOLLOWED = 1, /* shares nothing of its own with anybody yet */
    RECORDED,
    SPAWNER, /* the recorder: its children are followed, itself is not */
};

struct process {
    __u32 state;
    __u32 owner; /* whose memory it is: another's after vfork */
    __u64 image; /* the same in all that were forked since a program was executed */
    __u64 fresh, lost;
};

/* Of a process that runs Python. */
struct python {
    __u64 runtime; /* address of _PyRuntime */
    struct layout layout;
};

#endif
