/* vfork + exec through clone3, and the probing of calls that Python has no name for.
 *
 * The child shares the caller's memory until it has executed, so nothing is copied and nothing is
 * charged however large the process; the calling thread sleeps meanwhile. In return the child may
 * do next to nothing: it makes raw system calls only, on a stack of its own, with every signal
 * blocked and every handler reset (CLONE_CLEAR_SIGHAND), and tells what failed by writing it down
 * where the caller finds it.
 */
#include "native.h"
#include "sys.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef P_PIDFD
#define P_PIDFD 3
#endif

/* From linux/sched.h, which must not be included beside glibc's sched.h. */
#define FLAG_VM 0x00000100ULL
#define FLAG_PIDFD 0x00001000ULL
#define FLAG_VFORK 0x00004000ULL
#define FLAG_CLEAR_SIGHAND 0x100000000ULL
#define FLAG_INTO_CGROUP 0x200000000ULL

struct clone3_args { /* struct clone_args, as far as CLONE_INTO_CGROUP needs it (Linux 5.7) */
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size;
    uint64_t cgroup;
};

typedef uint64_t kernel_sigset; /* the kernel's own: 64 signals on every architecture we know */

enum stage { STAGE_SETUP, STAGE_CHDIR, STAGE_EXEC };

/* All that the child needs, laid out by the parent; the strings belong to the caller's bytes objects. */
struct plan {
    char **paths;    /* owned; NULL-terminated: what to execute, the first that exists */
    char **argv;     /* owned; NULL-terminated */
    char **envp;     /* owned; NULL-terminated */
    const char *cwd; /* NULL: stay */
    int *keep;       /* owned; ascending descriptors above 2 that stay open */
    Py_ssize_t kept;
    int stdio[3]; /* what becomes 0, 1 and 2; -1: inherit */
    int cgroup;   /* -1: the caller's */
    int new_session;
    kernel_sigset mask; /* the caller's, given back before exec */
    volatile int error; /* what the child could not do, 0 if it executed */
    volatile int stage;
};

#define IN_CHILD static __attribute__((no_sanitize("address", "undefined", "thread")))

/* Move what becomes 0, 1, 2 out of each other's way, then into place. Result: 0 or -errno. */
IN_CHILD long place_stdio(struct plan *plan)
{
    for (int i = 0; i < 3; i++)
        if (plan->stdio[i] >= 0 && plan->stdio[i] < 3 && plan->stdio[i] != i) {
            long moved = SYS(SYS_fcntl, plan->stdio[i], F_DUPFD_CLOEXEC, 3);
            if (moved < 0)
                return moved;
            plan->stdio[i] = (int)moved;
        }
    for (int i = 0; i < 3; i++) {
        long done = 0;
        if (plan->stdio[i] == i)
            done = SYS(SYS_fcntl, i, F_SETFD, 0);
        else if (plan->stdio[i] >= 0)
            done = SYS(SYS_dup3, plan->stdio[i], i, 0);
        if (done < 0)
            return done;
    }
    return 0;
}

/* Close everything above 2 but what is kept, and let that survive exec. Result: 0 or -errno. */
IN_CHILD long close_others(const struct plan *plan)
{
    unsigned from = 3;
    for (Py_ssize_t i = 0; i < plan->kept; i++) {
        unsigned keep = (unsigned)plan->keep[i];
        long done = SYS(SYS_fcntl, keep, F_SETFD, 0);
        if (done >= 0 && keep > from)
            done = SYS(SYS_close_range, from, keep - 1, 0);
        if (done < 0)
            return done;
        from = keep + 1;
    }
    return SYS(SYS_close_range, from, UINT_MAX, 0);
}

/* The signals that Python ignores and that its children expect to be killed by. */
IN_CHILD void restore_ignored(void)
{
    static const uint64_t default_action[4]; /* struct sigaction as the kernel has it: SIG_DFL */
    SYS(SYS_rt_sigaction, SIGPIPE, default_action, NULL, sizeof(kernel_sigset));
    SYS(SYS_rt_sigaction, SIGXFSZ, default_action, NULL, sizeof(kernel_sigset));
}

/* Try each path. A path that exists but may not be executed is the better error to report. */
IN_CHILD long execute(const struct plan *plan)
{
    long error = -ENOENT;
    for (char **path = plan->paths; *path; path++) {
        long failed = SYS(SYS_execve, *path, plan->argv, plan->envp);
        if (error == -ENOENT || (failed != -ENOENT && failed != -ENOTDIR))
            error = failed;
    }
    return error;
}

/* The child: does not return, leaves what failed in the plan. */
IN_CHILD __attribute__((noreturn, used)) void child(struct plan *plan)
{
    long failed = place_stdio(plan);
    if (failed >= 0)
        failed = close_others(plan);
    if (failed >= 0 && plan->new_session)
        failed = SYS(SYS_setsid, 0);
    if (failed >= 0 && plan->cwd) {
        plan->stage = STAGE_CHDIR;
        failed = SYS(SYS_chdir, plan->cwd);
    }
    if (failed >= 0) {
        plan->stage = STAGE_EXEC;
        restore_ignored();
        SYS(SYS_rt_sigprocmask, SIG_SETMASK, &plan->mask, NULL, sizeof(kernel_sigset));
        failed = execute(plan);
    }
    plan->error = (int)-failed;
    for (;;)
        SYS(SYS_exit_group, 127);
}

/* clone3 whose child runs child(plan) on args->stack. Result in the parent: pid or -errno. */
static __attribute__((noinline)) long clone3_call(struct clone3_args *args, struct plan *plan)
{
#if defined(__x86_64__)
    long result;
    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\t"
                     "mov %[plan], %%rdi\n\t"
                     "call *%[entry]\n\t"
                     "hlt\n"
                     "1:"
                     : "=a"(result)
                     : "a"(SYS_clone3), "D"(args), "S"(sizeof *args), [plan] "r"(plan), [entry] "r"(child)
                     : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = SYS_clone3;
    register long x0 __asm__("x0") = (long)args;
    register long x1 __asm__("x1") = sizeof *args;
    __asm__ volatile("svc 0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x29, xzr\n\t"
                     "mov x0, %[plan]\n\t"
                     "blr %[entry]\n\t"
                     "brk 1\n"
                     "1:"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), [plan] "r"(plan), [entry] "r"(child)
                     : "x30", "memory");
    return x0;
#endif
}

/* Start the plan: pid and *pidfd, or -errno; if plan->error is set, the child has failed. */
static long start(struct plan *plan, int *pidfd)
{
    _Alignas(16) char stack[16384]; /* the child's alone: this frame never touches it */
    const kernel_sigset all = ~(kernel_sigset)0;
    struct clone3_args args = {
        .flags = FLAG_VM | FLAG_VFORK | FLAG_PIDFD | FLAG_CLEAR_SIGHAND,
        .pidfd = (uint64_t)(uintptr_t)pidfd,
        .exit_signal = SIGCHLD,
        .stack = (uint64_t)(uintptr_t)stack,
        .stack_size = sizeof stack,
    };
    if (plan->cgroup >= 0) {
        args.flags |= FLAG_INTO_CGROUP;
        args.cgroup = (uint64_t)plan->cgroup;
    }
    SYS(SYS_rt_sigprocmask, SIG_SETMASK, &all, &plan->mask, sizeof(kernel_sigset));
    long pid = clone3_call(&args, plan);
    SYS(SYS_rt_sigprocmask, SIG_SETMASK, &plan->mask, NULL, sizeof(kernel_sigset));
    return pid;
}

/* Reap a child that did not get as far as exec. */
static void reap(int pidfd)
{
    while (SYS(SYS_waitid, P_PIDFD, pidfd, NULL, WEXITED, NULL) == -EINTR)
        ;
    SYS(SYS_close, pidfd);
}

/* A NULL-terminated array of the strings of a tuple of bytes; the caller frees the array only.
 * NULL with an exception for other types and embedded zeroes. */
static char **strings(PyObject *tuple)
{
    Py_ssize_t count = PyTuple_GET_SIZE(tuple);
    char **array = PyMem_New(char *, count + 1);
    if (!array)
        return (char **)PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < count; i++)
        if (PyBytes_AsStringAndSize(PyTuple_GET_ITEM(tuple, i), &array[i], NULL) < 0) {
            PyMem_Free(array);
            return NULL;
        }
    array[count] = NULL;
    return array;
}

/* The descriptors of a tuple of ints; the caller frees. NULL with an exception. */
static int *descriptors(PyObject *tuple)
{
    Py_ssize_t count = PyTuple_GET_SIZE(tuple);
    int *array = PyMem_New(int, count + 1);
    if (!array)
        return (int *)PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < count; i++) {
        long fd = PyLong_AsLong(PyTuple_GET_ITEM(tuple, i));
        if (fd < 3 || fd > INT_MAX) {
            if (!PyErr_Occurred())
                PyErr_Format(PyExc_ValueError, "cannot keep descriptor %ld", fd);
            PyMem_Free(array);
            return NULL;
        }
        array[i] = (int)fd;
    }
    return array;
}

/* Raise what went wrong: in clone3 itself, or in the child at its stage. */
static PyObject *failure(long number, int stage, PyObject *shown, const char *cwd)
{
    errno = (int)number;
    if (stage == STAGE_CHDIR)
        return PyErr_SetFromErrnoWithFilename(PyExc_OSError, cwd);
    if (stage == STAGE_EXEC)
        return PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, shown);
    return PyErr_SetFromErrno(PyExc_OSError);
}

/* launch(shown, paths, argv, env, cwd, stdin, stdout, stderr, keep, cgroup, new_session) -> (pid, pidfd)
 *
 * Returns once the child has executed one of `paths`. Raises OSError with the errno of what failed
 * in the child, naming `shown` or `cwd`; that child is reaped. `keep` is ascending. */
static PyObject *launch(PyObject *self, PyObject *args)
{
    (void)self;
    struct plan plan = {0};
    PyObject *shown, *paths, *argv, *env, *cwd, *keep, *result = NULL;
    if (!PyArg_ParseTuple(args, "OO!O!O!OiiiO!ip:launch", &shown, &PyTuple_Type, &paths, &PyTuple_Type, &argv,
                          &PyTuple_Type, &env, &cwd, &plan.stdio[0], &plan.stdio[1], &plan.stdio[2],
                          &PyTuple_Type, &keep, &plan.cgroup, &plan.new_session))
        return NULL;
    if (cwd != Py_None && PyBytes_AsStringAndSize(cwd, (char **)&plan.cwd, NULL) < 0)
        return NULL;
    plan.kept = PyTuple_GET_SIZE(keep);
    if (!(plan.paths = strings(paths)) || !(plan.argv = strings(argv)) || !(plan.envp = strings(env)) ||
        !(plan.keep = descriptors(keep)))
        goto end;
    int pidfd = -1;
    long pid;
    Py_BEGIN_ALLOW_THREADS;
    pid = start(&plan, &pidfd);
    if (pid > 0 && plan.error)
        reap(pidfd);
    Py_END_ALLOW_THREADS;
    if (pid < 0)
        failure(-pid, STAGE_SETUP, shown, NULL);
    else if (plan.error)
        failure(plan.error, plan.stage, shown, plan.cwd);
    else
        result = Py_BuildValue("li", pid, pidfd);
end:
    PyMem_Free(plan.paths);
    PyMem_Free(plan.argv);
    PyMem_Free(plan.envp);
    PyMem_Free(plan.keep);
    return result;
}

/* Whether advice is known: given on fresh memory of this size, whose first and middle page are there
 * (collapsing a huge page of which nothing is there fails). A shortage of memory just now is no
 * reason to call it unknown. */
static bool advice_is_known(size_t size, int advice)
{
    long at = SYS(SYS_mmap, NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at < 0 && at > -4096)
        return false;
    volatile char *memory = (volatile char *)at;
    memory[0] = memory[size / 2] = 1;
    long done = SYS(SYS_madvise, at, size, advice);
    SYS(SYS_munmap, at, size);
    return done == 0 || done == -ENOMEM || done == -EAGAIN || done == -EBUSY;
}

/* Whether PAGEMAP_SCAN is known: asked about an empty range. */
static bool pagemap_scan_is_known(void)
{
    uint64_t argument[12] = {sizeof argument}; /* struct pm_scan_arg of linux/fs.h */
    long fd = SYS(SYS_openat, AT_FDCWD, "/proc/self/pagemap", O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return false;
    long done = SYS(SYS_ioctl, fd, _IOWR('f', 16, argument), argument);
    SYS(SYS_close, fd);
    return done >= 0;
}

/* probe_call(name, size) -> bool: whether the kernel knows a call, asked in a way that changes
 * nothing. A call that seccomp denies counts as unknown. `size` is for what asks about memory. */
static PyObject *probe_call(PyObject *self, PyObject *args)
{
    (void)self;
    const char *name;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "sn:probe_call", &name, &size))
        return NULL;
    if (strcmp(name, "clone3") == 0)
        return PyBool_FromLong(SYS(SYS_clone3, NULL, 0) == -EINVAL);
    if (strcmp(name, "close_range") == 0)
        return PyBool_FromLong(SYS(SYS_close_range, UINT_MAX, UINT_MAX, 0) == 0);
    if (strcmp(name, "madv_collapse") == 0)
        return PyBool_FromLong(advice_is_known((size_t)size, MADV_COLLAPSE));
    if (strcmp(name, "madv_populate") == 0)
        return PyBool_FromLong(advice_is_known((size_t)size, MADV_POPULATE_WRITE));
    if (strcmp(name, "pagemap_scan") == 0)
        return PyBool_FromLong(pagemap_scan_is_known());
    return PyErr_Format(PyExc_ValueError, "no probe for %s", name);
}

PyMethodDef clonal_launch_methods[] = {
    {"launch", launch, METH_VARARGS,
     "Start a program by clone3(CLONE_VM|CLONE_VFORK|CLONE_PIDFD): (pid, pidfd)."},
    {"probe_call", probe_call, METH_VARARGS, "probe_call(name, size): whether the kernel knows a call."},
    {NULL},
};
