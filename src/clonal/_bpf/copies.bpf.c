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
enum { POOL = 1 << 14, POOL_HEADER = 48, CLASSES = 32, THREADS = 512, RAW = 72, USER_BITS = 47 };

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
    __u32 error, pending;
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

/* Code objects that user space has been woken for: their names must be read while they are there. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 1 << 14);
    __type(key, __u64);
    __type(value, __u8);
} told SEC(".maps");

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
    __u64 frame;
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
        thread->event.frame[depth].code = raw_word(thread, layout->code);
        thread->event.frame[depth].instruction = raw_word(thread, layout->instruction);
        at->depth = depth + 1;
    }
    at->frame = raw_word(thread, layout->previous);
    return 0;
}

static void walk(struct thread *thread, const struct python *python, __u64 self)
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

/* ---- what is sent ---- */

/* Whether there is room for a copy beside what must not be lost. */
static bool room(void)
{
    return bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA) < RING - RESERVE;
}

/* User space is woken where names are new, and else looks every few milliseconds. */
static __u64 wake_for(__u64 code)
{
    __u8 one = 1;
    if (!code || bpf_map_lookup_elem(&told, &code))
        return BPF_RB_NO_WAKEUP;
    bpf_map_update_elem(&told, &code, &one, BPF_ANY);
    return BPF_RB_FORCE_WAKEUP;
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
static void note(struct task_struct *task, struct thread *thread)
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
    if (python)
        walk(thread, python, task->thread.fsbase);
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
                           wake_for(depth ? thread->event.frame[0].code : 0)))
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
        note(task, thread);
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
        note(task, thread);
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
