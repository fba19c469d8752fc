/* Code objects and types that are seen for the first time: told with their texts, while they are there. */
#ifndef CLONAL_OBJECTS_BPF_H
#define CLONAL_OBJECTS_BPF_H

#include "frames.bpf.h"

static bool is_new(__u64 what, __u64 image)
{
    struct known key = {what, image};
    __u8 one = 1;
    if (bpf_map_lookup_elem(&told, &key))
        return false;
    bpf_map_update_elem(&told, &key, &one, BPF_ANY);
    return true;
}

/* A word of the object that was read; the verifier wants the bound. */
static __u64 object_word(const struct object_event *event, __u32 offset)
{
    return *(__u64 *)(event->object + (offset < OBJECT - 8 ? offset : 0));
}

/* Copies so many bytes of the process; how many there are then. */
static __always_inline __u64 copy(void *to, __u64 from, __u64 size, const __u64 most)
{
    barrier_var(size); /* else the bound is not seen by the verifier */
    if (!size || size > most || bpf_probe_read_user(to, size, (void *)from))
        return 0;
    return size;
}

/* The bytes of a str with its header: its length and the width of its letters are in it. */
static __u64 text_size(const struct layout *layout, __u64 text)
{
    __u64 length = word(text + 16), width = word(text + 32) >> 2 & 7;
    return length < FILE_NAME ? layout->compact + length * width : TOO_LONG;
}

static void begin(struct event *event, __u32 pid, __u64 address)
{
    __builtin_memset(event, 0, sizeof *event);
    event->kind = EVENT_OBJECT, event->address = address, event->pid = pid;
    event->depth = (sizeof(struct object_event) - sizeof *event) / sizeof(struct frame);
}

static void tell_code(struct thread *thread, const struct layout *layout, __u64 address)
{
    struct object_event *event = bpf_ringbuf_reserve(&ring, sizeof *event, 0);
    if (!event)
        return;
    begin(&event->head, thread->owner, address);
    if (bpf_probe_read_user(event->object, OBJECT, (void *)address)) {
        bpf_ringbuf_discard(event, BPF_RB_NO_WAKEUP);
        return;
    }
    __u64 name = object_word(event, layout->qualified_name), file = object_word(event, layout->file_name);
    __u64 lines = object_word(event, layout->line_table), length = word(lines + 16);
    __u64 *told_of = event->head.block;
    told_of[0] = name, told_of[1] = copy(event->name, name, text_size(layout, name), NAME);
    told_of[2] = file, told_of[3] = copy(event->file, file, text_size(layout, file), FILE_NAME);
    told_of[4] = lines,
    told_of[5] = copy(event->lines, lines, length < LINES - 33 ? length + 33 : LINES, LINES);
    bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
}

/* If it may be a type; its own type, 0 if it is none or not new. User space looks more closely. */
static __u64 tell_type(struct thread *thread, const struct layout *layout, __u64 image, __u64 address)
{
    if (address & 7 || address < PAGE || address >> USER_BITS ||
        !(word(address + layout->type_flags) & TYPE_READY) || !is_new(address, image))
        return 0;
    struct object_event *event = bpf_ringbuf_reserve(&ring, sizeof *event, 0);
    if (!event)
        return 0;
    begin(&event->head, thread->owner, address);
    __u64 metatype = 0;
    if (!bpf_probe_read_user(event->object, OBJECT, (void *)address)) {
        __u64 name = object_word(event, layout->type_name);
        long size = bpf_probe_read_user_str(event->name, NAME, (void *)name);
        if (size > 0)
            event->head.block[0] = name, event->head.block[1] = size;
        metatype = object_word(event, 8);
    }
    bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
    return metatype;
}

struct stack_tell {
    struct thread *thread;
    const struct layout *layout;
    __u64 image, metatype;
};

static long tell_frame(__u32 turn, struct stack_tell *at)
{
    if (turn >= DEPTH)
        return 1;
    __u64 code = at->thread->event.frame[turn].code;
    if (is_new(code, at->image))
        tell_code(at->thread, at->layout, code);
    return 0;
}

/* The words of the evidence that may be an object's type (observe/record/evidence.py), and their own types.
 */
static long tell_candidate(__u32 turn, struct stack_tell *at)
{
    struct event *event = &at->thread->event.head;
    __u64 address = 0;
    __u32 word = turn < 6 ? turn + 1 : turn / 2 - 2;
    if (turn >= 12)
        return 1;
    barrier_var(word); /* else the bound is not seen by the verifier */
    if (turn & 1)
        address = at->metatype;
    else if (turn < 6 && event->flags & BLOCK_READ)
        address = event->block[word & 7];
    else if (turn >= 6 && event->flags & AT_READ)
        address = event->at[word & 3];
    at->metatype = address ? tell_type(at->thread, at->layout, at->image, address) : 0;
    return 0;
}

/* With a stack that is new. */
static void tell_objects(struct thread *thread, const struct python *python, __u64 image)
{
    struct stack_tell at = {.thread = thread, .layout = &python->layout, .image = image};
    bpf_loop(thread->event.head.depth, tell_frame, &at, 0);
    bpf_loop(12, tell_candidate, &at, 0);
}

#endif
