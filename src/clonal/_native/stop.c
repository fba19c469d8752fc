#define _GNU_SOURCE
#include "stop.h"
#include "sys.h"
#include "text.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <time.h>

#define ARRIVE_SECONDS 2
#define BLOCKED_TRIES 200 /* a millisecond apart */

/* The signal libc keeps for itself (glibc: set*id in all threads). Its sigmask functions never block it, so
 * it reaches threads that block all others, as jemalloc's background threads do. Borrowed only while
 * stopping, and told from libc's own use by the value it carries. */
#define RESERVED_SIGNAL 33

#ifndef SA_RESTORER
#define SA_RESTORER 0x04000000
#endif

struct kernel_action { /* struct sigaction as the kernel has it: libc's refuses reserved signals */
    void (*handler)(int, siginfo_t *, void *);
    unsigned long flags;
    void (*restorer)(void);
    uint64_t mask;
};

/* Lives in a mapping of its own that is never freed: a thread that was too late to be stopped still
 * finds a valid state and returns at once. */
struct stop_state {
    int held;    /* futex: number of the stop that threads must wait for the end of, 0: none */
    int stops;   /* how many there were */
    int arrived; /* futex: threads now waiting, each with its slot filled */
    int claimed; /* slots handed out */
    int signum;
    int borrowed;                /* RESERVED_SIGNAL is ours for now */
    int late;                    /* a signal may still be on its way: the action must stay */
    struct kernel_action before; /* its action otherwise */
    struct stopped_thread slots[STOP_MAX];
    char listing[32 * 1024];
    char text[4096];
};

static struct stop_state *state;

static void on_stop(int signum, siginfo_t *info, void *context)
{
    struct stop_state *s = state;
    if (signum == RESERVED_SIGNAL && (info->si_code != SI_QUEUE || info->si_value.sival_ptr != s)) {
        if ((uintptr_t)s->before.handler > 1) /* neither SIG_DFL nor SIG_IGN */
            s->before.handler(signum, info, context);
        return;
    }
    int held = __atomic_load_n(&s->held, __ATOMIC_ACQUIRE);
    if (!held)
        return;
    int slot = __atomic_fetch_add(&s->claimed, 1, __ATOMIC_ACQ_REL);
    if (slot >= STOP_MAX)
        return;
    s->slots[slot] = (struct stopped_thread){
        .tid = (int)sys6(SYS_gettid, 0, 0, 0, 0, 0, 0),
        .stack = (uint64_t)__builtin_frame_address(0),
        .tls = (uint64_t)__builtin_thread_pointer(),
    };
    __atomic_fetch_add(&s->arrived, 1, __ATOMIC_ACQ_REL);
    SYS(SYS_futex, &s->arrived, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1);
    struct timespec patience = {0, 100 * 1000 * 1000}; /* should the wake-up be denied */
    while (__atomic_load_n(&s->held, __ATOMIC_ACQUIRE) == held)
        SYS(SYS_futex, &s->held, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, held, &patience);
}

/* Claims the highest real-time signal that nobody handles. */
static int install_handler(void)
{
    struct sigaction action = {.sa_sigaction = on_stop, .sa_flags = SA_SIGINFO | SA_RESTART}, old;
    sigfillset(&action.sa_mask);
    for (int signum = SIGRTMAX; signum >= SIGRTMIN; signum--) {
        if (sigaction(signum, NULL, &old) < 0)
            continue;
        if (old.sa_handler != SIG_DFL)
            continue;
        if (sigaction(signum, &action, NULL) < 0)
            return -errno;
        state->signum = signum;
        return 0;
    }
    return -EBUSY;
}

int stop_prepare(void)
{
    if (state) {
        struct sigaction current;
        sigaction(state->signum, NULL, &current);
        return current.sa_sigaction == on_stop ? 0 : install_handler();
    }
    void *memory =
        mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED)
        return -errno;
    state = memory;
    return install_handler();
}

void stop_memory(uint64_t *start, uint64_t *end)
{
    *start = (uint64_t)state;
    *end = state ? *start + sizeof *state : 0;
}

static bool is_stopped(int tid)
{
    for (int i = 0; i < state->arrived; i++)
        if (state->slots[i].tid == tid)
            return true;
    return false;
}

/* Appends a decimal number to `text`; returns the end. */
static char *append_number(char *text, unsigned value)
{
    char digits[12];
    int count = 0;
    do
        digits[count++] = '0' + value % 10;
    while (value /= 10);
    while (count)
        *text++ = digits[--count];
    return text;
}

#if defined(__x86_64__)
__asm__(".text\n"
        ".type clonal_sigreturn, @function\n"
        "clonal_sigreturn:\n"
        "    mov $15, %eax\n" /* SYS_rt_sigreturn */
        "    syscall\n"
        ".size clonal_sigreturn, . - clonal_sigreturn\n");
extern void clonal_sigreturn(void) __attribute__((visibility("hidden")));
#define RESTORER clonal_sigreturn
#define RESTORER_FLAG SA_RESTORER
#else
#define RESTORER NULL /* the kernel's own, in the vdso */
#define RESTORER_FLAG 0
#endif

/* Takes the reserved signal's action over for the duration of a stop. */
static bool borrow_reserved(void)
{
    if (state->borrowed)
        return true;
    struct kernel_action action = {
        .handler = on_stop,
        .flags = SA_SIGINFO | SA_RESTART | RESTORER_FLAG,
        .restorer = RESTORER,
        .mask = ~0ull,
    };
    state->borrowed =
        SYS(SYS_rt_sigaction, RESERVED_SIGNAL, &action, &state->before, sizeof action.mask) == 0;
    return state->borrowed;
}

/* Gives it back, unless libc has set an action of its own meanwhile. */
static void return_reserved(void)
{
    struct kernel_action now;
    if (!state->borrowed || state->late)
        return;
    if (SYS(SYS_rt_sigaction, RESERVED_SIGNAL, NULL, &now, sizeof now.mask) == 0 && now.handler == on_stop)
        SYS(SYS_rt_sigaction, RESERVED_SIGNAL, &state->before, NULL, sizeof now.mask);
    state->borrowed = 0;
}

static long send_reserved(int pid, int tid)
{
    siginfo_t info = {0};
    info.si_code = SI_QUEUE;
    info.si_pid = pid;
    info.si_uid = (uid_t)sys6(SYS_getuid, 0, 0, 0, 0, 0, 0);
    info.si_value.sival_ptr = state;
    return SYS(SYS_rt_tgsigqueueinfo, pid, tid, RESERVED_SIGNAL, &info);
}

/* True if thread `tid` blocks `signum`, by its /proc status. */
static bool blocks_signal(int tid, int signum)
{
    char path[64] = "/proc/self/task/", *end = append_number(path + 16, tid);
    for (const char *tail = "/status"; (*end++ = *tail++);)
        ;
    long fd = SYS(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    struct line_reader reader = {.fd = (int)fd, .buffer = state->text, .capacity = sizeof state->text};
    bool blocked = false;
    for (char *line; (line = read_line(&reader));)
        if (starts_with(line, "SigBlk:")) {
            const char *mask = line + 7;
            while (*mask == '\t' || *mask == ' ')
                mask++;
            blocked = parse_number(&mask, 16) >> (signum - 1) & 1;
        }
    SYS(SYS_close, fd);
    return blocked;
}

/* Like blocks_signal, but patient: a thread that was let go a moment ago still leaves its handler. */
static bool stays_blocked(int tid, int signum)
{
    for (int tries = 0; tries < BLOCKED_TRIES; tries++) {
        if (!blocks_signal(tid, signum))
            return false;
        struct timespec pause = {0, 1000 * 1000};
        SYS(SYS_nanosleep, &pause, 0);
    }
    return true;
}

static long now_ms(void)
{
    struct timespec time;
    SYS(SYS_clock_gettime, CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

/* Waits until `count` threads have arrived. False if one does not come in time. */
static bool wait_arrived(int count)
{
    long deadline = now_ms() + ARRIVE_SECONDS * 1000;
    for (;;) {
        int arrived = __atomic_load_n(&state->arrived, __ATOMIC_ACQUIRE);
        if (arrived >= count)
            return true;
        struct timespec pause = {0, 10 * 1000 * 1000};
        SYS(SYS_futex, &state->arrived, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, arrived, &pause);
        if (now_ms() > deadline)
            return false;
    }
}

struct directory_entry { /* struct linux_dirent64, whose name libc hides */
    uint64_t inode;
    int64_t offset;
    unsigned short length;
    unsigned char type;
    char name[];
};

static const char unreadable[] = "/proc/self/task cannot be read";

static bool has_ended(int tid)
{
    char path[64] = "/proc/self/task/";
    *append_number(path + 16, tid) = '\0';
    return SYS(SYS_faccessat, AT_FDCWD, path, 0) == -ENOENT;
}

/* Signals thread `tid` and waits for it. Returns NULL if it is stopped or has ended, else why it could not be
 * stopped. */
static const char *stop_one(int tid)
{
    int pid = (int)sys6(SYS_getpid, 0, 0, 0, 0, 0, 0);
    bool reserved = blocks_signal(tid, state->signum);
    if (reserved && (stays_blocked(tid, RESERVED_SIGNAL) || !borrow_reserved()))
        return "it blocks all signals";
    int expected = state->arrived + 1;
    if (expected > STOP_MAX)
        return "there are too many threads";
    long sent = reserved ? send_reserved(pid, tid) : SYS(SYS_tgkill, pid, tid, state->signum);
    if (sent == -ESRCH)
        return NULL;
    if (sent < 0)
        return "no signal can be sent to it";
    if (wait_arrived(expected) || has_ended(tid))
        return NULL;
    return "it did not stop in time";
}

/* Stops each thread of one directory listing that is not stopped yet. Returns how many were new, or -1 with
 * the result filled. */
static int stop_listed(int directory, int self, struct stop_result *result)
{
    int before = state->arrived;
    long got = SYS(SYS_lseek, directory, 0, 0);
    while (got >= 0 && (got = SYS(SYS_getdents64, directory, state->listing, sizeof state->listing)) > 0) {
        for (long at = 0; at < got;) {
            struct directory_entry *entry = (void *)(state->listing + at);
            at += entry->length;
            const char *name = entry->name;
            int tid = (int)parse_number(&name, 10);
            if (tid == 0 || tid == self || is_stopped(tid))
                continue;
            result->failed_tid = tid;
            result->failed_reason = stop_one(tid);
            if (result->failed_reason)
                return -1;
        }
    }
    result->failed_tid = 0;
    if (got < 0) { /* who was not listed runs on */
        result->failed_reason = unreadable;
        return -1;
    }
    return state->arrived - before;
}

int stop_threads(struct stop_result *result)
{
    *result = (struct stop_result){0};
    state->arrived = state->claimed = 0;
    __atomic_store_n(&state->held, ++state->stops, __ATOMIC_RELEASE);
    int self = (int)sys6(SYS_gettid, 0, 0, 0, 0, 0, 0);
    long directory = SYS(SYS_openat, AT_FDCWD, "/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int fresh = directory < 0 || self <= 0 ? -1 : 1; /* not knowing itself it would wait for itself */
    if (fresh < 0)
        result->failed_reason = unreadable;
    while (fresh > 0) /* a thread not yet stopped may have started others */
        fresh = stop_listed((int)directory, self, result);
    if (directory >= 0)
        SYS(SYS_close, directory);
    if (fresh < 0) {
        release_threads();
        return -1;
    }
    result->failed_tid = 0;
    result->count = state->arrived;
    result->threads = state->slots;
    return 0;
}

void release_threads(void)
{
    return_reserved();
    __atomic_store_n(&state->held, 0, __ATOMIC_RELEASE);
    SYS(SYS_futex, &state->held, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, STOP_MAX);
}
