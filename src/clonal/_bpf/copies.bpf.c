/* Every copy-on-write fault of the followed processes, with the Python frames that ran, seen from the kernel.
 *
 * exceptions:page_fault_user and _kernel say that a thread writes to a page that is present but not writable
 * (arch/x86/mm/fault.c). If it is copied, kmem:mm_page_alloc follows on the same thread before the fault is
 * accounted for (mm/memory.c do_wp_page, wp_page_copy, mm_account_fault); if it does not, the page was
 * reused. A write to a page that is not there copies in a private mapping of a file (do_cow_fault).
 */
#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

#include "event.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* arch/x86/include/asm/trap_pf.h */
enum { FAULT_PRESENT = 1, FAULT_WRITE = 2 };
/* include/linux/gfp_types.h: the same bits since Linux 4.4 */
enum { GFP_MOVABLE = 0x08, GFP_ZERO = 0x100 };
enum { VM_SHARED = 0x08 };
enum {
    PAGE = 4096,
    OBJECT_TOO_LONG = 1 << 20,
    POOL = 1 << 14,
    POOL_HEADER = 48,
    CLASSES = 32,
    THREADS = 512,
    RAW = 72,
    USER_BITS = 47
};

enum { TYPE_READY = 1 << 12 }; /* Py_TPFLAGS_READY */
#define PRIME 1099511628211ull /* of FNV-1a */

/* ---- of the kernel, as much as is used ---- */

#define KERNEL __attribute__((preserve_access_index))

struct thread_struct {
    unsigned long fsbase;
} KERNEL;

struct atomic_counter {
    int counter;
} KERNEL;

struct signal_struct {
    struct atomic_counter live;
} KERNEL;

struct mm_struct;
struct page;
struct file;

struct task_struct {
    int pid, tgid;
    struct mm_struct *mm;
    unsigned long min_flt, maj_flt;
    struct signal_struct *signal;
    struct thread_struct thread;
} KERNEL;

struct vm_area_struct {
    unsigned long vm_flags;
    struct file *vm_file;
} KERNEL;

struct pt_regs {
    unsigned long ip;
} KERNEL;

/* ---- maps ---- */

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

__u64 images = 0;     /* programs executed so far */
__u64 unfollowed = 0; /* children that found no room in `processes` */

/* ---- the Python frames of the faulting thread ---- */

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

/* ---- evidence of what is written ---- */

/* The pool of small objects that the address lies in, if it is one, and the beginning of its block
 * (Objects/obmalloc.c: pools are aligned to their size, the class of size is in the header). */
static void look_at_pool(struct event *event)
{
    __u64 pool = event->address & ~(__u64)(POOL - 1);
    __u32 offset = event->address & (POOL - 1), size_class, size;
    if (bpf_probe_read_user(event->pool, sizeof event->pool, (void *)pool))
        return;
    event->flags |= POOL_READ;
    size_class = event->pool[4] >> 32;
    if (offset < POOL_HEADER || size_class >= CLASSES)
        return;
    size = (size_class + 1) * 16;
    __u64 block = pool + POOL_HEADER + (offset - POOL_HEADER) / size * size;
    if (!bpf_probe_read_user(event->block, sizeof event->block, (void *)block))
        event->flags |= BLOCK_READ;
}

static void look_at(struct event *event)
{
    look_at_pool(event);
    if (!bpf_probe_read_user(event->at, sizeof event->at, (void *)event->address))
        event->flags |= AT_READ;
}

struct lookup {
    bool found, private_file;
};

static long take_mapping(struct task_struct *task, struct vm_area_struct *vma, struct lookup *lookup)
{
    (void)task;
    lookup->found = true;
    lookup->private_file = vma->vm_file && !(vma->vm_flags & VM_SHARED);
    return 0;
}

/* Whether a page that was not there is copied from a file; the flags that say so, 0 if it is not. */
static __u32 from_file(struct task_struct *task, __u64 address)
{
    struct lookup lookup = {0};
    bpf_find_vma(task, address, take_mapping, &lookup, 0);
    if (!lookup.found)
        return FROM_FILE | NOT_SURE; /* its lock was taken; user space has the list of mappings */
    return lookup.private_file ? FROM_FILE : 0;
}

/* ---- objects that are seen for the first time ---- */

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
    return length < FILE_NAME ? layout->compact + length * width : OBJECT_TOO_LONG;
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

/* ---- what is sent ---- */

/* Whether there is room for a copy beside what must not be lost. */
static bool room(void)
{
    return bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA) < RING - RESERVE;
}

static void tell(__u32 kind, __u32 pid, __u32 child, __u32 flags, const struct process *process)
{
    struct event *event = bpf_ringbuf_reserve(&ring, sizeof *event, 0);
    if (!event)
        return;
    __builtin_memset(event, 0, sizeof *event);
    event->time = bpf_ktime_get_ns();
    event->kind = kind, event->pid = pid, event->child = child, event->flags = flags;
    event->thread = (__u32)bpf_get_current_pid_tgid();
    if (process)
        event->fresh = process->fresh, event->lost = process->lost;
    bpf_ringbuf_submit(event, BPF_RB_FORCE_WAKEUP);
}

/* What runs and what is written to. Of a page that is there this is noted before its fault is handled:
 * reading the page marks its entry as accessed, and a handler that finds the entry changed begins again
 * (mm/memory.c wp_page_copy, pte_same). */
static void note(struct task_struct *task, struct thread *thread, const struct process *process)
{
    struct event *event = &thread->event.head;
    __u32 pid = task->tgid;
    struct python *python = bpf_map_lookup_elem(&pythons, &pid);
    event->address = thread->address, event->ip = thread->ip;
    event->kind = EVENT_COPY, event->thread = task->pid;
    event->flags = thread->ip ? 0 : BY_KERNEL;
    event->depth = 0;
    if (thread->error & FAULT_PRESENT)
        look_at(event);
    thread->owner = process->owner;
    thread->wake = 0;
    if (!python)
        return;
    __u64 hash = walk(thread, python, task->thread.fsbase);
    if (hash && is_new(hash, process->image)) {
        tell_objects(thread, python, process->image);
        thread->wake = 1;
    }
}

static void send(struct thread *thread, struct process *process)
{
    struct event *event = &thread->event.head;
    __u32 depth = event->depth;
    event->time = bpf_ktime_get_ns();
    event->pid = process->owner;
    if (!room() || depth > DEPTH) {
        __sync_fetch_and_add(&process->lost, 1);
        return;
    }
    if (bpf_ringbuf_output(&ring, &thread->event, sizeof *event + depth * sizeof(struct frame),
                           thread->wake ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP))
        __sync_fetch_and_add(&process->lost, 1);
}

/* ---- faults ---- */

static int fault(__u64 address, __u64 ip, __u64 error)
{
    struct task_struct *task = bpf_get_current_task_btf();
    __u32 pid = task->tgid;
    struct process *process = bpf_map_lookup_elem(&processes, &pid);
    if (!process || process->state != RECORDED)
        return 0;
    if (ip && !(error & FAULT_PRESENT))
        __sync_fetch_and_add(&process->fresh, 1);
    if (!(error & FAULT_WRITE))
        return 0;
    struct thread *thread = bpf_task_storage_get(&threads, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
    if (!thread) {
        __sync_fetch_and_add(&process->lost, 1);
        return 0;
    }
    thread->address = address, thread->ip = ip, thread->error = error;
    thread->faults = task->min_flt + task->maj_flt;
    thread->pending = 1;
    if (error & FAULT_PRESENT)
        note(task, thread, process);
    return 0;
}

SEC("tp_btf/page_fault_user")
int BPF_PROG(on_user_fault, unsigned long address, struct pt_regs *regs, unsigned long error)
{
    return fault(address, regs->ip, error);
}

SEC("tp_btf/page_fault_kernel")
int BPF_PROG(on_kernel_fault, unsigned long address, struct pt_regs *regs, unsigned long error)
{
    (void)regs;
    return address >> USER_BITS ? 0 : fault(address, 0, error);
}

/* A page for what is to be copied is movable and need not be zeroed; that for the first write to an anonymous
 * page, or to the page of zeroes, is zeroed, and a page table is neither (mm/memory.c folio_prealloc). */
SEC("tp_btf/mm_page_alloc")
int BPF_PROG(on_page, struct page *page, unsigned int order, unsigned int flags)
{
    (void)page;
    if (order || !(flags & GFP_MOVABLE) || flags & GFP_ZERO)
        return 0;
    struct task_struct *task = bpf_get_current_task_btf();
    struct thread *thread = bpf_task_storage_get(&threads, task, 0, 0);
    if (!thread || !thread->pending)
        return 0;
    thread->pending = 0;
    if (task->min_flt + task->maj_flt != thread->faults)
        return 0; /* that fault has ended: its page was reused */
    __u32 pid = task->tgid;
    struct process *process = bpf_map_lookup_elem(&processes, &pid);
    if (!process)
        return 0;
    if (!(thread->error & FAULT_PRESENT)) {
        __u32 file = from_file(task, thread->address);
        if (!file)
            return 0;
        note(task, thread, process);
        thread->event.head.flags |= file;
    }
    send(thread, process);
    return 0;
}

/* ---- lives ---- */

/* In the parent, before the child runs. */
SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_fork, struct task_struct *parent, struct task_struct *child)
{
    __u32 pid = parent->tgid, new = child->tgid, flags = 0;
    struct process *process = pid == new ? 0 : bpf_map_lookup_elem(&processes, &pid);
    if (!process)
        return 0;
    struct process made = *process;
    made.fresh = made.lost = 0;
    if (process->state == SPAWNER) {
        made.state = FOLLOWED;
        made.owner = new;
    } else if (parent->mm == child->mm) {
        flags = VFORKED;
    } else {
        flags = process->state == FOLLOWED ? FIRST : 0;
        process->state = made.state = RECORDED;
        made.owner = new;
    }
    struct python *python = bpf_map_lookup_elem(&pythons, &pid);
    if (python)
        bpf_map_update_elem(&pythons, &new, python, BPF_ANY);
    if (bpf_map_update_elem(&processes, &new, &made, BPF_ANY)) {
        __sync_fetch_and_add(&unfollowed, 1);
        return 0;
    }
    tell(EVENT_FORK, process->owner, new, flags, 0);
    return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task)
{
    __u32 pid = task->tgid;
    struct process *process = bpf_map_lookup_elem(&processes, &pid);
    if (!process || process->state == SPAWNER)
        return 0;
    tell(EVENT_EXEC, pid, 0, process->owner == pid ? 0 : VFORKED, process);
    struct process made = {.state = FOLLOWED, .owner = pid};
    made.image = __sync_fetch_and_add(&images, 1) + (1ull << 32); /* no number of a process */
    bpf_map_update_elem(&processes, &pid, &made, BPF_ANY);
    bpf_map_delete_elem(&pythons, &pid);
    return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit, struct task_struct *task)
{
    __u32 pid = task->tgid;
    struct process *process = bpf_map_lookup_elem(&processes, &pid);
    if (!process || task->signal->live.counter)
        return 0;
    tell(EVENT_EXIT, pid, 0, process->owner == pid ? 0 : VFORKED, process);
    bpf_map_delete_elem(&processes, &pid);
    bpf_map_delete_elem(&pythons, &pid);
    return 0;
}
