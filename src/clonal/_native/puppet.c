/* A process that does to its memory what it is told, and nothing else: the real kernel's half of a
 * scenario (clonal.scenario).
 *
 * It is the extension module's file executed as a program. It has no heap and no libc, one frame of
 * stack, and counts its own faults around each operation, so that neither the command nor the answer
 * is among them. Descriptor 0 is its socket (SOCK_SEQPACKET): one message a command, one an answer.
 * A forked child gets a socket of its own, which comes with the command. At the end of its socket a
 * puppet exits: none outlives whoever drives it.
 *
 * The first one is the stage: the others are forked from it, and it inherits their orphans.
 */
#define _GNU_SOURCE
#include "native.h"
#include "program.h"
#include "sys.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>

enum { SOCKET, NEXT, PAGE = 4096, RANGES = 120 };

/* Known to clonal/scenario/puppet.py too. */
enum op {
    OP_READ,
    OP_WRITE,
    OP_FORK,
    OP_VFORK,
    OP_EXEC,
    OP_EXIT,
    OP_MMAP,
    OP_MUNMAP,
    OP_MREMAP,
    OP_MPROTECT,
    OP_MADVISE,
    OP_MLOCK,
    OP_MUNLOCK,
    OP_WAIT,
};

struct command {
    int64_t op, args[6]; /* of a system call; of a touch: the address */
    int64_t count;       /* of ranges to touch, in pages */
    struct {
        int64_t first, pages;
    } ranges[RANGES];
};

struct answer {
    int64_t result, signal, minor, major;
};

struct kernel_sigaction {
    void (*handler)(int, siginfo_t *, void *);
    unsigned long flags;
    void (*restorer)(void);
    uint64_t mask;
};

#define INLINE FREESTANDING static inline __attribute__((always_inline))

INLINE void count(struct answer *answer, int sign)
{
    struct rusage usage;

    SYS(SYS_getrusage, RUSAGE_SELF, &usage);
    answer->minor += sign * usage.ru_minflt;
    answer->major += sign * usage.ru_majflt;
}

INLINE void say(const struct answer *answer)
{
    if (SYS(SYS_sendto, SOCKET, answer, sizeof *answer, MSG_NOSIGNAL, 0, 0) < 0)
        SYS(SYS_exit_group, 1);
}

/* Waits for a command; exits if there will be none. Returns the descriptor that came with it, or -1. */
INLINE int hear(struct command *command)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {command, sizeof *command};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    long got;

    message.msg_control = &control;
    message.msg_controllen = sizeof control;
    do
        got = SYS(SYS_recvmsg, SOCKET, &message, MSG_CMSG_CLOEXEC);
    while (got == -EINTR);
    if (got < (long)offsetof(struct command, ranges))
        SYS(SYS_exit_group, 0);
    return message.msg_controllen >= CMSG_LEN(sizeof(int)) ? *(int *)CMSG_DATA(&control.header) : -1;
}

/* One access to each page, in order: a load or a plain store, not both. */
INLINE void touch(const struct command *command)
{
    for (int64_t i = 0; i < command->count && i < RANGES; i++) {
        volatile char *at = (char *)command->args[0] + command->ranges[i].first * PAGE;
        volatile char *end = at + command->ranges[i].pages * PAGE;
        for (; at < end; at += PAGE)
            if (command->op == OP_WRITE)
                *at = 1;
            else
                (void)*at;
    }
}

INLINE long call_number(int64_t op)
{
    switch (op) {
    case OP_MMAP:
        return SYS_mmap;
    case OP_MUNMAP:
        return SYS_munmap;
    case OP_MREMAP:
        return SYS_mremap;
    case OP_MPROTECT:
        return SYS_mprotect;
    case OP_MADVISE:
        return SYS_madvise;
    case OP_MLOCK:
        return SYS_mlock;
    case OP_MUNLOCK:
        return SYS_munlock;
    default:
        return SYS_wait4;
    }
}

/* A file to map comes with the command, in place of the fifth argument. */
INLINE void act(struct command *command, int fd, struct answer *answer)
{
    int64_t *a = command->args;
    long number = call_number(command->op);

    if (fd >= 0)
        a[4] = fd;
    count(answer, -1);
    if (command->op <= OP_WRITE)
        touch(command);
    else
        answer->result = sys6(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    count(answer, 1);
    if (fd >= 0)
        SYS(SYS_close, fd);
}

/* An access that the kernel refused: says so and dies, as a process does of SIGSEGV, but without a
 * core file. */
FREESTANDING static __attribute__((noreturn)) void refused(int signum, siginfo_t *info, void *context)
{
    struct answer answer = {.result = (int64_t)info->si_addr, .signal = signum};

    (void)context;
    say(&answer);
    for (;;)
        SYS(SYS_exit_group, 128 + signum);
}

INLINE void handle(int signum)
{
    struct kernel_sigaction action = {refused, SA_SIGINFO, (void (*)(void))refused, 0};

#if defined(SA_RESTORER)
    action.flags |= SA_RESTORER;
#elif defined(__x86_64__)
    action.flags |= 0x04000000; /* x86-64 delivers no signal without it */
#endif
    SYS(SYS_rt_sigaction, signum, &action, 0, sizeof action.mask);
}

INLINE long execute(const char *second)
{
    const char *argv[] = {"clonal-puppet", second, 0}, *envp[] = {0};
    return SYS(SYS_execve, "/proc/self/exe", argv, envp);
}

/* Says hello, and before that runs once what it will run later, so that the faults on its own code and
 * stack lie behind it. */
INLINE void hello(struct command *command)
{
    struct answer answer = {0};
    int64_t op = OP_MUNMAP;

    command->op = OP_WRITE;
    command->args[0] = (int64_t)command->ranges;
    command->count = 1;
    command->ranges[0].first = 0;
    command->ranges[0].pages = 1;
    act(command, -1, &answer);
    __asm__ volatile("" : "+r"(op)); /* so that the table of numbers is looked up, not foreseen */
    command->op = op;                /* munmap of nothing, which the kernel refuses */
    command->args[0] = command->args[1] = 0;
    act(command, -1, &answer);
    answer.signal = answer.minor = answer.major = 0;
    answer.result = SYS(SYS_getpid, 0);
    say(&answer);
}

/* The child goes on in the same frame: one of vfork overwrites what its parent had there, and the
 * parent then uses nothing of it but the result in its register. So the child's socket waits under a
 * number known to both. */
INLINE void split(struct command *command, int fd)
{
    long flags = SIGCHLD | (command->op == OP_VFORK ? CLONE_VM | CLONE_VFORK : 0);
    struct answer answer;
    long pid;

    if (fd != NEXT) {
        SYS(SYS_dup3, fd, NEXT, O_CLOEXEC);
        SYS(SYS_close, fd);
    }
    pid = SYS(SYS_clone, flags, 0, 0, 0, 0);
    if (pid == 0) {
        SYS(SYS_dup3, NEXT, SOCKET, 0);
        SYS(SYS_close, NEXT);
        hello(command);
        return;
    }
    SYS(SYS_close, NEXT);
    answer.signal = answer.minor = answer.major = 0;
    answer.result = pid;
    say(&answer);
}

FREESTANDING static __attribute__((noreturn, noinline)) void serve(void)
{
    struct command command;

    hello(&command);
    for (;;) {
        struct answer answer = {0};
        int fd = hear(&command);
        if (command.op == OP_FORK || command.op == OP_VFORK) {
            split(&command, fd);
            continue;
        }
        if (command.op == OP_EXIT)
            SYS(SYS_exit_group, command.args[0]);
        if (command.op == OP_EXEC)
            answer.result = execute(0);
        else
            act(&command, fd, &answer);
        say(&answer);
    }
}

FREESTANDING __attribute__((noreturn, visibility("hidden"))) void clonal_puppet_main(long argc)
{
    /* The same addresses in every puppet: what it needs for itself then is the same too. */
    long personality = SYS(SYS_personality, 0xffffffff);

    if (!(personality & ADDR_NO_RANDOMIZE)) {
        SYS(SYS_personality, personality | ADDR_NO_RANDOMIZE);
        execute(argc > 1 ? "stage" : 0);
    }
    if (argc > 1)
        SYS(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    SYS(SYS_prctl, PR_SET_NAME, "clonal-puppet", 0, 0, 0);
    handle(SIGSEGV);
    handle(SIGBUS);
    serve();
}
