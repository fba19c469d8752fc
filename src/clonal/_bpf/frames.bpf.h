/* The Python frames of the faulting thread. */
#ifndef CLONAL_FRAMES_BPF_H
#define CLONAL_FRAMES_BPF_H

#include "kernel.bpf.h"
#include "maps.bpf.h"

static __u64 word(__u64 address)
{
    __u64 value = 0;
    bpf_probe_read_user(&value, sizeof value, (void *)address);
    return value;
}

/* Where a frame's word is that was read to `raw`; the verifier wants the bound. */
static __u64 raw_word(struct thread *thread, __u32 offset)
{
    return *(__u64 *)(thread->raw + (offset & 63));
}

/* What the loops go on with; as functions they are verified once, not once for each turn (bpf_loop). */
struct search {
    const struct layout *layout;
    __u64 interpreter, state, self;
};

static long next_thread(__u32 turn, struct search *at)
{
    (void)turn;
    if (at->state && word(at->state + at->layout->thread_id) == at->self)
        return 1;
    if (at->state) {
        at->state = word(at->state + at->layout->next_thread);
        return 0;
    }
    at->interpreter = word(at->interpreter + at->layout->next_interpreter);
    if (!at->interpreter)
        return 1;
    at->state = word(at->interpreter + at->layout->threads);
    return 0;
}

/* The PyThreadState of this thread: thread_id is pthread_self(), which is the base of FS. */
static __u64 find_state(struct thread *thread, const struct python *python, __u64 self)
{
    const struct layout *layout = &python->layout;
    if (thread->state && word(thread->state + layout->thread_id) == self)
        return thread->state;
    struct search at = {.layout = layout, .self = self};
    at.interpreter = word(python->runtime + layout->interpreters);
    if (at.interpreter)
        at.state = word(at.interpreter + layout->threads);
    bpf_loop(THREADS, next_thread, &at, 0);
    if (at.state && word(at.state + layout->thread_id) != self)
        at.state = 0;
    return thread->state = at.state;
}

struct stack_walk {
    const struct layout *layout;
    struct thread *thread;
    __u64 frame, hash;
    __u32 depth;
};

static long next_frame(__u32 turn, struct stack_walk *at)
{
    (void)turn;
    struct thread *thread = at->thread;
    const struct layout *layout = at->layout;
    if (!at->frame || bpf_probe_read_user(thread->raw, RAW, (void *)at->frame))
        return 1;
    __u8 owner = *(__u8 *)(thread->raw + (layout->owner & 127));
    __u32 depth = at->depth;
    if (depth >= DEPTH)
        return 1;
    if (owner != layout->not_python) {
        __u64 code = raw_word(thread, layout->code), instruction = raw_word(thread, layout->instruction);
        thread->event.frame[depth].code = code;
        thread->event.frame[depth].instruction = instruction;
        at->hash = ((at->hash ^ code) * PRIME ^ instruction) * PRIME;
        at->depth = depth + 1;
    }
    at->frame = raw_word(thread, layout->previous);
    return 0;
}

/* The hash of the stack that was noted, 0 if there is none. */
static __u64 walk(struct thread *thread, const struct python *python, __u64 self)
{
    const struct layout *layout = &python->layout;
    struct stack_walk at = {.layout = layout, .thread = thread};
    __u64 state = find_state(thread, python, self);
    if (state && layout->c_frame != NO_C_FRAME)
        state = word(state + layout->c_frame);
    if (state)
        at.frame = word(state + layout->current_frame);
    if (at.frame)
        bpf_loop(2 * DEPTH, next_frame, &at, 0);
    thread->event.head.depth = at.depth;
    return at.depth ? at.hash : 0;
}

#endif
