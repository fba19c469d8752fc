/* Every copy-on-write fault of this process, with the line of Python that caused it, without privilege.
 *
 * A software event counts minor faults that user code takes, and has the kernel send SIGTRAP for each
 * (perf_event_open with sigtrap, Linux 5.13): after the fault was handled, before the instruction runs again.
 * So the handler finds the page as it was and the thread where it wrote. It runs on memory that fork leaves
 * out, and calls nothing but system calls: what it notes is made readable later (trap_drain.c).
 */
#define _GNU_SOURCE
#include "trap.h"

#include "native.h"
#include "sys.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "trap_state.h"

#ifndef TRAP_PERF
#define TRAP_PERF 6 /* include/uapi/asm-generic/siginfo.h, from Linux 5.13 */
#endif

struct trap_state clonal_trap = {.pagemap = -1, .memory = -1, .watch = -1, .ring_file = -1};

/* ---- one fault ---- */

/* Whether the fault copied (or could have copied) a page that was shared. */
static bool was_copy(struct fault *fault)
{
    int outcome = trap_outcome_of_fault(&clonal_trap.inherited, fault->address / 4096);
    fault->outcome = (uint8_t)outcome;
    return outcome >= 0;
}

uint64_t trap_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t instruction_of(void *context)
{
#if defined(__x86_64__)
    return (uint64_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
#else
    return ((ucontext_t *)context)->uc_mcontext.pc;
#endif
}

static void keep(struct ring *ring, struct fault *fault)
{
    fault->time = trap_now();
    fault->thread = (uint32_t)SYS(SYS_gettid, 0);
    trap_classify(ring, fault);
    fault->stack = trap_stack(ring);
    if (ring->faults < FAULTS)
        ring->fault[ring->faults++] = *fault;
    else
        ring->lost++;
}

static void note(struct ring *ring, uint64_t address, void *context)
{
    struct fault fault = {.address = address, .ip = instruction_of(context)};
    if (clonal_trap.looking) {
        uint32_t number = __atomic_fetch_add(&ring->early_count, 1, __ATOMIC_RELAXED);
        if (number < EARLY)
            ring->early[number] = address / 4096;
        else
            ring->early_count = EARLY;
        return;
    }
    while (
        __atomic_exchange_n(&clonal_trap.busy, 1, __ATOMIC_ACQUIRE)) /* two threads: tables have one writer */
        SYS(SYS_sched_yield, 0);
    uint32_t before = ring->faults;
    if (was_copy(&fault))
        keep(ring, &fault);
    else
        ring->fresh++;
    bool wanted =
        ring->faults != before && (before == DRAIN_AT || fault.time > clonal_trap.drained_at + DRAIN_AFTER);
    __atomic_store_n(&clonal_trap.busy, 0, __ATOMIC_RELEASE);
    if (wanted)
        PyErr_SetInterruptEx(clonal_trap.drain_signal);
}

static void handle(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    int saved = errno;
    struct ring *ring = clonal_trap.ring;
    if (info->si_code != TRAP_PERF)
        trap_pass_on(info);
    else if (ring)
        note(ring, (uint64_t)info->si_addr, context);
    errno = saved;
}

/* ---- start and stop ---- */

static long open_event(long thread)
{
    struct perf_event_attr attr = {
        .type = PERF_TYPE_SOFTWARE,
        .size = sizeof attr,
        .config = PERF_COUNT_SW_PAGE_FAULTS_MIN,
        .sample_period = 1,
        .sample_type = PERF_SAMPLE_ADDR | PERF_SAMPLE_IP,
        .exclude_kernel = 1,
        .exclude_hv = 1,
        .disabled = 1,
        .inherit = 1,
        .inherit_thread = 1,
        .remove_on_exec = 1,
        .sigtrap = 1,
    };
    return SYS(SYS_perf_event_open, &attr, thread, -1, -1, PERF_FLAG_FD_CLOEXEC);
}

/* An event for each thread that there is; those to come inherit it. 0 or a negative errno. */
static long open_events(void)
{
    DIR *threads = opendir("/proc/self/task");
    if (!threads)
        return -errno;
    long result = 0;
    struct dirent *entry;
    while (result >= 0 && (entry = readdir(threads))) {
        long thread = atol(entry->d_name);
        if (thread <= 0)
            continue;
        if (clonal_trap.events == TRAP_THREADS) {
            result = -EMFILE;
            break;
        }
        result = open_event(thread);
        if (result >= 0)
            clonal_trap.event[clonal_trap.events++] = (int)result;
        else if (result == -ESRCH)
            result = 0; /* it has ended meanwhile */
    }
    closedir(threads);
    return result < 0 ? result : 0;
}

static void enable(void)
{
    for (int i = 0; i < clonal_trap.events; i++)
        ioctl(clonal_trap.event[i], PERF_EVENT_IOC_ENABLE, 0);
}

bool trap_is_ours(int fd, const char *what)
{
    char name[64], target[64] = {0};
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    return fd >= 0 && readlink(name, target, sizeof target - 1) > 0 && strstr(target, what);
}

void trap_let_go(int fd, const char *what)
{
    if (trap_is_ours(fd, what))
        close(fd);
}

static void close_events(void)
{
    for (int i = 0; i < clonal_trap.events; i++)
        trap_let_go(clonal_trap.event[i], "[perf_event]");
    clonal_trap.events = 0;
}

static void forget_pages(void)
{
    trap_let_go(clonal_trap.pagemap, "/pagemap");
    trap_let_go(clonal_trap.memory, "/mem");
    clonal_trap.pagemap = clonal_trap.memory = -1;
    if (clonal_trap.owner == getpid()) /* a child has none of it mapped */
        trap_forget(&clonal_trap.inherited);
    else
        trap_watch_close(); /* the parent's, which watches the parent */
    clonal_trap.inherited = (struct inherited){0};
}

static void unblock(void)
{
    sigset_t trap;
    sigemptyset(&trap);
    sigaddset(&trap, SIGTRAP);
    pthread_sigmask(SIG_UNBLOCK, &trap, NULL);
}

static bool install(struct ring *ring)
{
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART}, old;
    stack_t stack;
    if (sigaction(SIGTRAP, NULL, &old) < 0)
        return false;
    if (old.sa_sigaction != handle && old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN &&
        !trap_has_their_handler())
        return errno = EBUSY, false; /* the program has a handler of its own, in C */
    unblock(); /* a fork handler may run with all signals blocked, and nobody is told of a fault then */
    if (sigaltstack(NULL, &stack) == 0 && (stack.ss_flags & SS_DISABLE || clonal_trap.own_stack)) {
        stack = (stack_t){.ss_sp = ring->signal_stack, .ss_size = sizeof ring->signal_stack};
        clonal_trap.own_stack = sigaltstack(&stack, NULL) == 0;
    }
    return sigaction(SIGTRAP, &action, NULL) == 0;
}

static PyObject *failed(long error, const char *what)
{
    close_events();
    forget_pages();
    errno = (int)error;
    PyObject *name = PyUnicode_FromString(what);
    PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, name);
    Py_XDECREF(name);
    return NULL;
}

/* trap_start(drain_signal, traps) -> (pages that are shared, whether frames are shown, pages that are its own
 * already, pages whose writing by the kernel cannot be seen, the errno that is the cause) */
static PyObject *trap_start(PyObject *module, PyObject *args)
{
    (void)module;
    int traps;
    if (!PyArg_ParseTuple(args, "ip", &clonal_trap.drain_signal, &traps))
        return NULL;
    close_events();
    forget_pages();
    clonal_trap.busy = 0;
    if (clonal_trap.owner != getpid()) {
        if (clonal_trap.ring_file >= 0)
            close(clonal_trap.ring_file);
        clonal_trap.ring = trap_new_ring(); /* that of the parent is not mapped here */
        clonal_trap.owner = getpid();
    }
    if (!clonal_trap.ring)
        return failed(ENOMEM, "the ring of faults");
    clonal_trap.pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    clonal_trap.memory = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    if (clonal_trap.pagemap < 0 || clonal_trap.memory < 0)
        return failed(errno, "/proc/self/pagemap and mem");
    if (traps && !install(clonal_trap.ring))
        return failed(errno, "SIGTRAP");
    clonal_trap.looking = true;
    clonal_trap.drained_at = trap_now();
    clonal_trap.ring->early_count = 0;
    long error = traps ? open_events() : 0;
    if (error < 0)
        return failed(-error, "perf_event_open");
    enable();
    trap_watch_open();
    bool good = trap_look(&clonal_trap.inherited, clonal_trap.ring, clonal_trap.pagemap);
    clonal_trap.looking = false;
    if (!good)
        return failed(errno ? errno : EIO, "/proc/self/maps");
    const struct inherited *all = &clonal_trap.inherited;
    return Py_BuildValue("(KOKKi)", (unsigned long long)all->shared, all->frames_shown ? Py_True : Py_False,
                         (unsigned long long)all->already_own,
                         (unsigned long long)(all->frames_shown ? 0 : all->unwatched),
                         clonal_trap.watch_refused ? clonal_trap.watch_refused : EBUSY);
}

bool trap_is_whole(void)
{
    return trap_is_ours(clonal_trap.pagemap, "/pagemap") &&
           (!clonal_trap.events || trap_is_ours(clonal_trap.event[0], "[perf_event]"));
}

void clonal_trap_close(bool ends)
{
    if (clonal_trap.owner != getpid())
        return;
    close_events();
    forget_pages();
    if (!ends)
        trap_watch_close();
}

/* trap_forked() -> whether it will do not to look at the pages again after this fork. */
static PyObject *trap_forked(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    struct inherited *all = &clonal_trap.inherited;
    if (clonal_trap.owner != getpid() || !all->later || all->generation == LAST || !trap_is_whole())
        Py_RETURN_FALSE;
    all->generation++;
    Py_RETURN_TRUE;
}

/* trap_whole() -> whether all has been noted until now; the program may have closed what that needs. */
static PyObject *trap_whole(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return PyBool_FromLong(clonal_trap.owner != getpid() || trap_is_whole());
}

/* trap_depth() -> how many frames of a stack are noted at most, from the innermost. */
static PyObject *trap_depth(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return PyLong_FromLong(DEPTH);
}

/* trap_probe() -> 0, or the errno with which this kernel refuses to record. */
static PyObject *trap_probe(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    long fd = open_event(0);
    if (fd >= 0)
        close((int)fd);
    return PyLong_FromLong(fd >= 0 ? 0 : -fd);
}

PyMethodDef clonal_trap_methods[] = {
    {"trap_depth", trap_depth, METH_NOARGS, NULL},  {"trap_probe", trap_probe, METH_NOARGS, NULL},
    {"trap_start", trap_start, METH_VARARGS, NULL}, {"trap_forked", trap_forked, METH_NOARGS, NULL},
    {"trap_whole", trap_whole, METH_NOARGS, NULL},  {NULL, NULL, 0, NULL},
};
