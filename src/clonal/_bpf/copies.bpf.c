/* Every copy-on-write fault of the followed processes, with the Python frames that ran, seen from the kernel.
 *
 * exceptions:page_fault_user and _kernel say that a thread writes to a page that is present but not writable
 * (arch/x86/mm/fault.c). If it is copied, kmem:mm_page_alloc follows on the same thread before the fault is
 * accounted for (mm/memory.c do_wp_page, wp_page_copy, mm_account_fault); if it does not, the page was
 * reused. A write to a page that is not there copies in a private mapping of a file (do_cow_fault).
 */
#include <linux/bpf.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

#include "kernel.bpf.h"
#include "maps.bpf.h"
#include "frames.bpf.h"
#include "objects.bpf.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

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

/* What the mapping of a page is: OF_FILE, NOT_SURE where its lock was taken, or 0. User space has a list of
 * mappings, but of another time. */
static __u32 mapping_of(struct task_struct *task, __u64 address)
{
    struct lookup lookup = {0};
    bpf_find_vma(task, address, take_mapping, &lookup, 0);
    if (!lookup.found)
        return NOT_SURE;
    return lookup.private_file ? OF_FILE : 0;
}

/* ---- what is sent ---- */

/* Whether there is room for a copy beside what must not be lost. */
static bool room(void)
{
    return bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA) < RING - RESERVE;
}

static void tell(__u32 kind, __u32 pid, __u32 child, __u32 flags, const struct process *process,
                 const struct linux_binprm *program)
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
    if (program) {
        struct mm_struct *mm = bpf_get_current_task_btf()->mm;
        event->address = mm->start_code, event->ip = mm->end_code;
        bpf_probe_read_kernel_str(event->pool, sizeof *event - offsetof(struct event, pool),
                                  program->filename);
    }
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
    __u32 mapping = mapping_of(task, thread->address);
    if (!(thread->error & FAULT_PRESENT)) {
        if (!mapping)
            return 0;
        note(task, thread, process);
        thread->event.head.flags |= FROM_FILE;
        if (thread->ip)
            __sync_fetch_and_add(&process->fresh, -1); /* counted as a first touch already */
    }
    thread->event.head.flags |= mapping;
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
        __sync_fetch_and_add(&process->lost, 1); /* so many processes: what this one copies is missing */
        return 0;
    }
    tell(EVENT_FORK, process->owner, new, flags, 0, 0);
    return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task, int before, struct linux_binprm *program)
{
    __u32 pid = task->tgid;
    struct process *process = bpf_map_lookup_elem(&processes, &pid);
    if (!process || process->state == SPAWNER)
        return 0;
    tell(EVENT_EXEC, pid, 0, process->owner == pid ? 0 : VFORKED, process, program);
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
    tell(EVENT_EXIT, pid, 0, process->owner == pid ? 0 : VFORKED, process, 0);
    bpf_map_delete_elem(&processes, &pid);
    bpf_map_delete_elem(&pythons, &pid);
    return 0;
}
