/* Of the kernel as much as is used: fields are found by their names when the program is loaded (CO-RE). */
#ifndef CLONAL_KERNEL_BPF_H
#define CLONAL_KERNEL_BPF_H

/* arch/x86/include/asm/trap_pf.h */
enum { FAULT_PRESENT = 1, FAULT_WRITE = 2 };
/* include/linux/gfp_types.h: the same bits in Linux 5.17 (gfp.h) to 6.18; bpf.py tries it out */
enum { GFP_MOVABLE = 0x08, GFP_ZERO = 0x100 };
enum { VM_SHARED = 0x08 };
enum {
    PAGE = 4096,
    TOO_LONG = 1 << 20,
    POOL = 1 << 14,
    POOL_HEADER = 48,
    CLASSES = 32,
    THREADS = 512,
    RAW = 72,
    USER_BITS = 47
};

enum { TYPE_READY = 1 << 12 }; /* Py_TPFLAGS_READY */
#define PRIME 1099511628211ull /* of FNV-1a */

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

struct mm_struct {
    unsigned long start_code, end_code;
} KERNEL;

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

struct linux_binprm {
    const char *filename;
} KERNEL;

struct pt_regs {
    unsigned long ip;
} KERNEL;

#endif
