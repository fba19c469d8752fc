/* inject PID K MODE [ERRNO [whole]]: fails the K-th system call of a freeze, from outside.
 *
 * Seizes a stopped process, lets it go on, and watches its system calls between the first two changes of
 * its signal mask to and from "all blocked", which is when the C core of a freeze has the process to itself;
 * with "whole", between the first two calls of getpgid.
 * MODE error: the call is not made and returns -ERRNO. MODE unmapped: if it is an mmap over something, the
 * range is unmapped and the call returns -ENOMEM, as the kernel may do. K = 0 fails nothing. A close is made
 * even when it "fails", as Linux does, and a brk that fails returns the break as it is.
 * Checksums every private mapping at both ends of the window. Prints one line of JSON: the number of calls,
 * their numbers in order, the one that failed, and how many mappings read differently afterwards. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>

#define MOST 4096
#define MOST_CALLS (1 << 16)

struct mapping {
    uint64_t start, end, sum;
};

static pid_t pid;
static struct mapping before[MOST];
static int before_count;
static int calls[MOST_CALLS];

static void die(const char *what)
{
    fprintf(stderr, "inject: %s: %s\n", what, strerror(errno));
    exit(2);
}

/* FNV over words of [start, end), page by page; unreadable pages count as such. */
static uint64_t checksum(uint64_t start, uint64_t end)
{
    static uint64_t words[(1 << 20) / 8];
    uint64_t sum = 1469598103934665603ull;
    for (uint64_t at = start; at < end; at += sizeof words) {
        size_t size = end - at < sizeof words ? end - at : sizeof words;
        struct iovec here = {words, size}, there = {(void *)at, size};
        ssize_t got = process_vm_readv(pid, &here, 1, &there, 1, 0);
        if (got < 0)
            got = 0;
        for (ssize_t i = 0; i < got / 8; i++)
            sum = (sum ^ words[i]) * 1099511628211ull;
        sum = (sum ^ (uint64_t)got) * 1099511628211ull;
    }
    return sum;
}

/* Private, readable mappings but the stack, thread-local storage (the kernel writes there: rseq), and the
 * core's own scratch (the one that is not dumped). */
static int mappings(struct mapping *found, uint64_t tls)
{
    char path[64], line[512];
    snprintf(path, sizeof path, "/proc/%d/smaps", pid);
    FILE *file = fopen(path, "r");
    if (!file)
        die(path);
    int count = 0;
    bool taken = false;
    while (fgets(line, sizeof line, file)) {
        unsigned long start, end;
        char perms[8];
        if (sscanf(line, "%lx-%lx %4s", &start, &end, perms) == 3) {
            taken = perms[0] == 'r' && perms[3] == 'p' && !strstr(line, "[") && count < MOST &&
                    !(start <= tls && tls < end);
            if (taken)
                found[count++] = (struct mapping){start, end, 0};
        } else if (taken && !strncmp(line, "VmFlags:", 8) && strstr(line, " dd")) {
            count--;
        }
    }
    fclose(file);
    return count;
}

/* How many of the mappings of the start now read differently. */
static int changed(uint64_t *where)
{
    int count = 0;
    for (int i = 0; i < before_count; i++)
        if (checksum(before[i].start, before[i].end) != before[i].sum) {
            *where = before[i].start;
            count++;
        }
    return count;
}

static struct user_regs_struct registers(void)
{
    struct user_regs_struct regs;
    if (ptrace(PTRACE_GETREGS, pid, 0, &regs) < 0)
        die("PTRACE_GETREGS");
    return regs;
}

/* Runs to the next entry to or exit from a system call. False if the process ended (status in *status). */
static bool next_stop(int *status)
{
    static int deliver;
    for (;;) {
        if (ptrace(PTRACE_SYSCALL, pid, 0, deliver) < 0)
            die("PTRACE_SYSCALL");
        deliver = 0;
        if (waitpid(pid, status, __WALL) < 0)
            die("waitpid");
        if (!WIFSTOPPED(*status))
            return false;
        if (WSTOPSIG(*status) == (SIGTRAP | 0x80))
            return true;
        if (*status >> 16 == 0) /* a real signal, not an event */
            deliver = WSTOPSIG(*status);
    }
}

static bool blocks_all(const struct user_regs_struct *regs)
{
    if (regs->orig_rax != SYS_rt_sigprocmask || regs->rdi != SIG_SETMASK || !regs->rsi)
        return false;
    uint64_t mask = 0;
    struct iovec here = {&mask, 8}, there = {(void *)regs->rsi, 8};
    process_vm_readv(pid, &here, 1, &there, 1, 0);
    return (mask | 3ull << 31) == ~0ull; /* libc leaves its own two signals out */
}

int main(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    pid = atoi(argv[1]);
    int k = atoi(argv[2]), error = argc > 4 ? atoi(argv[4]) : ENOMEM;
    bool whole = argc > 5 && !strcmp(argv[5], "whole");
    bool unmapped = !strcmp(argv[3], "unmapped");
    if (ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL) < 0)
        die("PTRACE_SEIZE");
    kill(pid, SIGCONT);
    ptrace(PTRACE_INTERRUPT, pid, 0, 0);
    int status, count = 0, differing = -1;
    long failed_call = -1;
    uint64_t where = 0;
    bool inside = false, entry = true, done = false;
    if (waitpid(pid, &status, __WALL) < 0)
        die("waitpid");
    while (next_stop(&status)) {
        struct user_regs_struct regs = registers();
        entry = regs.rax == (unsigned long)-ENOSYS;
        if (!entry || done)
            continue;
        bool bound = whole ? regs.orig_rax == SYS_getpgid : regs.orig_rax == SYS_rt_sigprocmask;
        if (!inside && (whole ? bound : blocks_all(&regs))) {
            next_stop(&status); /* to its exit */
            inside = true;
            before_count = mappings(before, regs.fs_base);
            for (int i = 0; i < before_count; i++)
                before[i].sum = checksum(before[i].start, before[i].end);
            continue;
        }
        if (!inside)
            continue;
        if (bound) {
            differing = changed(&where);
            done = true;
            continue;
        }
        if (count < MOST_CALLS)
            calls[count] = (int)regs.orig_rax;
        if (++count != k)
            continue;
        bool fixed = regs.orig_rax == SYS_mmap && regs.r10 & MAP_FIXED;
        if (unmapped && !fixed)
            continue;
        failed_call = regs.orig_rax;
        bool asks = regs.orig_rax == SYS_brk;
        if (asks)
            regs.rdi = 0;
        else if (regs.orig_rax != SYS_close)
            regs.orig_rax = unmapped ? SYS_munmap : -1;
        if (ptrace(PTRACE_SETREGS, pid, 0, &regs) < 0)
            die("PTRACE_SETREGS");
        next_stop(&status);
        regs = registers();
        if (!asks)
            regs.rax = unmapped ? -ENOMEM : -error;
        if (ptrace(PTRACE_SETREGS, pid, 0, &regs) < 0)
            die("PTRACE_SETREGS");
    }
    printf("{\"count\": %d, \"call\": %ld, \"changed\": %d, \"where\": %lu, \"mappings\": %d, \"status\": %d",
           count, failed_call, differing, (unsigned long)where, before_count, status);
    for (int i = 0; i < count && i < MOST_CALLS; i++)
        printf("%s%d", i ? ", " : ", \"calls\": [", calls[i]);
    printf("%s}\n", count ? "]" : "");
    return 0;
}
