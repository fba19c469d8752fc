/* A whole program of some hundred bytes inside the extension module: it waits for one child and ends
 * as that child ended.
 *
 * When threads remain in a warm process, a single-threaded child of it becomes the template. The
 * warm process must stay, since the client waits for it, but its memory must go: so it executes this
 * file, whose entry point (-Wl,-e) is below. No interpreter, no libc, no relocations. Under the name
 * "clonal-puppet" the program is the one of puppet.c.
 */
#define _GNU_SOURCE
#include "native.h"
#include "program.h"
#include "sys.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <errno.h>

#if defined(__x86_64__)
__asm__(".text\n"
        ".globl clonal_waiter_entry\n"
        ".hidden clonal_waiter_entry\n"
        ".type clonal_waiter_entry, @function\n"
        "clonal_waiter_entry:\n"
        "    xor %ebp, %ebp\n"
        "    mov %rsp, %rdi\n"
        "    and $-16, %rsp\n"
        "    call clonal_waiter_main\n"
        "    hlt\n");
#elif defined(__aarch64__)
__asm__(".text\n"
        ".globl clonal_waiter_entry\n"
        ".hidden clonal_waiter_entry\n"
        ".type clonal_waiter_entry, %function\n"
        "clonal_waiter_entry:\n"
        "    mov x29, #0\n"
        "    mov x0, sp\n"
        "    bl clonal_waiter_main\n");
#endif

/* Dies of the signal that its child died of, without a core file of its own. */
FREESTANDING static void die_of(int signum)
{
    struct rlimit none = {0, 0};
    uint64_t mask = 0;
    SYS(SYS_prlimit64, 0, RLIMIT_CORE, &none, 0);
    SYS(SYS_rt_sigprocmask, SIG_SETMASK, &mask, 0, sizeof mask);
    SYS(SYS_kill, sys6(SYS_getpid, 0, 0, 0, 0, 0, 0), signum);
    SYS(SYS_exit_group, 128 + signum);
}

FREESTANDING static int is_puppet(const char *name)
{
    const char *wanted = "clonal-puppet";
    while (*wanted && *name == *wanted)
        name++, wanted++;
    return !*wanted && !*name;
}

/* `stack` is what the kernel leaves there: argc, argv[0], argv[1]: the child's pid in decimal. */
FREESTANDING __attribute__((used, noreturn, visibility("hidden"))) void clonal_waiter_main(long *stack)
{
    const char *name = stack[0] > 0 ? (const char *)stack[1] : "";
    const char *text = stack[0] > 1 ? (const char *)stack[2] : "";
    int status = 0;
    long pid = 0, got;
    if (is_puppet(name))
        clonal_puppet_main(stack[0]);
    for (; *text >= '0' && *text <= '9'; text++)
        pid = pid * 10 + (*text - '0');
    SYS(SYS_prctl, PR_SET_NAME, "clonal-waiter", 0, 0, 0);
    do
        got = SYS(SYS_wait4, pid, &status, 0, 0);
    while (got == -EINTR);
    if (got == pid && (status & 0x7f))
        die_of(status & 0x7f);
    for (;;)
        SYS(SYS_exit_group, got == pid ? status >> 8 & 0xff : 1);
}
